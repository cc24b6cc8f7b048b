"""What the process that jobs are forked from has done for all of them: slow imports, and what libraries do once.

Imported there (`tests.support.small_runs`) and nowhere else: unlike other modules it works when it is imported. It
halves the time of a small training run, which is mostly MLflow's: it imports late, and lists all installed packages.
"""

import io
import tempfile
from pathlib import Path

import git  # noqa: F401 - MLflow asks it which commit a run is of
import mlflow
import mlflow.store.tracking.sqlalchemy_store
import torch
from matplotlib.figure import Figure

import feature_store.stores.redis  # noqa: F401
import pipelines.build_memory.job
import pipelines.evaluate.job
import pipelines.make_log.job
import pipelines.memories.job
import pipelines.promote.job
import pipelines.retention.job
import pipelines.score_batch.job
import pipelines.train_ctr.job  # noqa: F401
import tests.support.small_runs  # noqa: F401 - what they begin with

torch.set_num_threads(1)


_ECHO = """
import mlflow

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]):
        return model_input

mlflow.models.set_model(Echo())
"""

with tempfile.TemporaryDirectory() as _folder:
    _script = Path(_folder) / "echo.py"
    _script.write_text(_ECHO)
    mlflow.pyfunc.save_model(str(Path(_folder) / "model"), python_model=str(_script), pip_requirements=["numpy"])

_figure = Figure()
_figure.subplots().set_title("fonts are found once")
_figure.savefig(io.BytesIO())
