"""Behaviour logs: checking Parquet files, hashing users into buckets, sorting by time, and splitting."""
