"""MLflow: what a run keeps there, and how a run that was killed is taken up again."""

import logging
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from matplotlib.figure import Figure
from pydantic import Field

from feature_store.errors import DataError
from feature_store.files import write_text
from pipelines.cli import flatten
from rm_rec.config.base import Settings

_KEY_FILE, _KEY_TAG = "mlflow_run_key", "run_key"
_MAX_PARAM = 6000  # MLflow refuses longer values


class TrackingConfig(Settings):
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
    """Open the run of an output folder, the same one if the folder has been worked on before; yield its id.

    Raises DataError where MLflow cannot be reached or refuses the experiment.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        mlflow.set_tracking_uri(config.uri)
        experiment = mlflow.set_experiment(config.experiment)
        run_id = _find(experiment.experiment_id, _key(out), tags)
        opened = mlflow.start_run(run_id=run_id, run_name=None if run_id else out.name, tags={_KEY_TAG: _key(out)})
    except Exception as error:  # stores raise errors of their own libraries
        raise DataError(f"tracking.uri {config.uri}: MLflow cannot open a run there: {_first_line(error)}") from error
    with opened as run:
        # A kill may have come before any of this was kept.
        params = {key: str(value)[:_MAX_PARAM] for key, value in flatten(settings).items()}
        mlflow.log_params({key: value for key, value in params.items() if key not in run.data.params})
        mlflow.log_dict(dict(settings), "config.yaml")
        mlflow.set_tags({"code_version": code_version(), **tags})
        yield run.info.run_id


@contextmanager
def reopened_run(uri: str, out: Path) -> Iterator[str]:
    """Open the MLflow run that an output folder's job was tracked in, to add to it; yield its id.

    Raises DataError where MLflow at `uri` cannot be reached or has no run of this folder.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        mlflow.set_tracking_uri(uri)
        experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
        runs = mlflow.MlflowClient().search_runs(experiments, f"tags.{_KEY_TAG} = '{_key(out)}'")
    except Exception as error:  # stores raise errors of their own libraries
        raise DataError(f"tracking_uri {uri}: MLflow cannot be read there: {_first_line(error)}") from error
    if not runs:
        raise DataError(
            f"tracking_uri {uri}: no run of {out} there; name the address that it was trained with, or null to write "
            "to the folder alone"
        )
    with mlflow.start_run(run_id=runs[0].info.run_id) as run:
        yield run.info.run_id


def log_data_set(name: str, digest: str, profile: Mapping[str, Any]) -> None:
    """Name the log that a run was trained on, by the hash of its content."""
    source = mlflow.data.http_dataset_source.HTTPDatasetSource(url=f"urn:sha256:{digest}")
    data_set = mlflow.data.meta_dataset.MetaDataset(source, name=name, digest=digest[:36])
    mlflow.log_input(data_set, context="training", tags={key: str(value) for key, value in profile.items()})


def log_once(values: Mapping[str, float], step: int = 0) -> None:
    """Keep metrics of one step; those that the run has already, from before a kill, are not kept twice."""
    run = mlflow.active_run()
    assert run is not None
    client = mlflow.MlflowClient()
    known = client.get_run(run.info.run_id).data.metrics
    new = {
        name: value
        for name, value in values.items()
        if name not in known or all(point.step != step for point in client.get_metric_history(run.info.run_id, name))
    }
    if new:
        mlflow.log_metrics(new, step=step)


def log_curve(name: str, points: Mapping[int, float]) -> None:
    """Keep a metric's values by step; where the run has another value for a step, the new one is the later."""
    run = mlflow.active_run()
    assert run is not None
    known = {point.step: point.value for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)}
    for step, value in points.items():
        if known.get(step) != value:
            mlflow.log_metric(name, value, step=step)


def log_report(
    values: Mapping[str, Any], figures: Mapping[str, Figure], file: str = "report.json", text: str | None = None
) -> None:
    """Keep a whole evaluation and its figures with the run; as Markdown too, which MLflow shows as tables."""
    mlflow.log_dict(dict(values), file)
    if text is not None:
        mlflow.log_text(text, str(Path(file).with_suffix(".md")))
    for name, figure in figures.items():
        mlflow.log_figure(figure, f"figures/{name}")


def code_version() -> str:
    """Name the code: the commit where it is a checkout, else the installed version."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed inside another project's repository, git would name that one's commit
        return version("rm-rec")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return version("rm-rec")
    return found


def _key(out: Path) -> str:
    """Return the key of the folder's run, drawn before there is one: a kill while it is made leaves no second run."""
    file = out / _KEY_FILE
    if not file.exists() or not file.read_text().strip():
        write_text(file, uuid.uuid4().hex)
    return file.read_text().strip()


def _find(experiment: str, key: str, tags: Mapping[str, str]) -> str | None:
    """Find the run of a folder; one of another config or log, whose files were deleted since, is left alone."""
    for run in mlflow.MlflowClient().search_runs([experiment], f"tags.{_KEY_TAG} = '{key}'"):
        if all(run.data.tags.get(name, value) == value for name, value in tags.items()):
            return str(run.info.run_id)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
