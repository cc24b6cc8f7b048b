"""Behaviour logs: Parquet files are checked, hashed by user into buckets, sorted by time, and split."""
