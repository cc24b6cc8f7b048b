"""The jobs that join logs and models, one a file; run one with `python -m pipelines.NAME --help`."""
