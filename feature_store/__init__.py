"""Data at rest: behaviour logs, vocabularies, impressions and their splits. Arrow and DuckDB, never torch."""
