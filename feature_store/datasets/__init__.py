"""Logs to start with: a synthetic one with a planted signal, and converters of public data sets' official files."""
