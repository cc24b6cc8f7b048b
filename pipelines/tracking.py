"""MLflow: what a run keeps there, and how a run that was killed is taken up again."""

import logging
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from matplotlib.figure import Figure
from pydantic import Field

from feature_store.schema import Strict
from pipelines.settings import flatten

_RUN_ID_FILE = "mlflow_run_id"
_MAX_PARAM = 6000  # MLflow refuses longer values


class TrackingConfig(Strict):
    """Where MLflow keeps runs and models."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow's tracking address; the default is one file in the current folder."""
    experiment: str = Field("rm-rec", min_length=1)
    register_as: str | None = None
    """Name in the model registry; without it the model is logged with the run but not registered."""


@contextmanager
def tracked_run(
    config: TrackingConfig, out: Path, settings: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[str]:
    """Open the run of an output folder, the same one if the folder has been worked on before; yield its id."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(config.uri)
    mlflow.set_experiment(config.experiment)
    id_file = out / _RUN_ID_FILE
    run_id = id_file.read_text().strip() if id_file.exists() else None
    if run_id is not None and not _exists(run_id):
        run_id = None
    with mlflow.start_run(run_id=run_id, run_name=None if run_id else out.name) as run:
        if run_id is None:
            id_file.write_text(run.info.run_id)
            params = {key: str(value)[:_MAX_PARAM] for key, value in flatten(settings).items()}
            mlflow.log_params(params)
            mlflow.log_dict(dict(settings), "config.yaml")
            mlflow.set_tags({"code_version": code_version(), **tags})
        yield run.info.run_id


def log_data_set(name: str, digest: str, profile: Mapping[str, Any]) -> None:
    """Name the log that a run was trained on, by the hash of its content."""
    source = mlflow.data.http_dataset_source.HTTPDatasetSource(url=f"urn:sha256:{digest}")
    data_set = mlflow.data.meta_dataset.MetaDataset(source, name=name, digest=digest[:36])
    mlflow.log_input(data_set, context="training", tags={key: str(value) for key, value in profile.items()})


def log_figures(figures: Mapping[str, Figure]) -> None:
    """Keep figures with the run."""
    for name, figure in figures.items():
        mlflow.log_figure(figure, f"figures/{name}")


def register(folder: Path, name: str | None, tags: Mapping[str, str]) -> str | None:
    """Keep a model's files with the run and, given a name, register them as the candidate; return `models:/…`."""
    mlflow.log_artifacts(str(folder), "model")
    if name is None:
        return None
    client = mlflow.MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    run = mlflow.active_run()
    assert run is not None
    source = f"{run.info.artifact_uri}/model"
    registered = client.create_model_version(name, source, run.info.run_id, tags=dict(tags))
    client.set_registered_model_alias(name, "candidate", registered.version)
    return f"models:/{name}/{registered.version}"


def code_version() -> str:
    """Name the code: the commit where there is one, else the installed version."""
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return version("rm-rec")
    return found


def _exists(run_id: str) -> bool:
    try:
        mlflow.get_run(run_id)
    except mlflow.exceptions.MlflowException:
        return False
    return True
