"""Scoring candidates from users' memories: files of candidates and the scorer, for batches and served models."""
