"""The kinds of stores that memories lie in."""

STORES = ("lmdb", "parquet", "redis")
