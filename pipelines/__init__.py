"""The jobs that join logs and models, one a folder; run one with `python -m pipelines.NAME --help`."""

import logging
import os

# MLflow starts reporting usage the moment it is imported, so this must be set before any job imports it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Jobs show their own progress; MLflow's bars, one for each copied file, would be printed between its lines.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# torch warns once about how torchrec checks whether it is being traced; only torchrec can change that, not a user.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: not str(record.msg).startswith("is_fx_tracing will return true")
)
