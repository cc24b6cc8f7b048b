"""The jobs that join logs and models, one a file; run one with `python -m pipelines.NAME --help`."""

import logging
import os

# MLflow starts reporting usage the moment it is imported, so this must be said before any job imports it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Jobs show progress of their own: MLflow's bars, one for each copied file, would be torn between its lines.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# torch warns, once, of how torchrec asks whether it is being traced: torchrec's to mend, and nothing a user can act on.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: not str(record.msg).startswith("is_fx_tracing will return true")
)
