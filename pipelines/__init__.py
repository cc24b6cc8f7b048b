"""The jobs that join logs and models, one a file; run one with `python -m pipelines.NAME --help`."""

import os

# MLflow starts reporting usage the moment it is imported, so this must be said before any job imports it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
