"""Tracking in MLflow: settings, metrics and figures of a run; a killed job resumes its run."""

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
from mlflow.exceptions import MlflowException

from feature_store.files import write_text
from pipelines.cli import flatten
from pipelines.errors import TrackingError, first_line
from pipelines.runs.settings import TrackingConfig

_KEY_FILE, _KEY_TAG = "mlflow_run_key", "run_key"
_MAX_PARAM = 6000  # MLflow refuses longer values


@contextmanager
def tracked_run(
    config: TrackingConfig, out: Path, settings: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[str]:
    """Open the MLflow run of an output folder, the same one if the job was killed and resumes; yield its id.

    Raises TrackingError where MLflow cannot be reached or refuses the experiment.
    """
    _log_less()
    try:
        mlflow.set_tracking_uri(config.uri)
        experiment = mlflow.set_experiment(config.experiment)
        run_id = _find(experiment.experiment_id, _key(out), tags)
        opened = mlflow.start_run(run_id=run_id, run_name=None if run_id else out.name, tags={_KEY_TAG: _key(out)})
    except Exception as error:  # stores raise errors of their own libraries
        raise TrackingError(
            f"tracking.uri {config.uri}: MLflow cannot open a run there: {first_line(error)}"
        ) from error
    with opened as run:
        # The job may have been killed before any of this was logged.
        params = {key: str(value)[:_MAX_PARAM] for key, value in flatten(settings).items()}
        mlflow.log_params({key: value for key, value in params.items() if key not in run.data.params})
        mlflow.log_dict(dict(settings), "config.yaml")
        mlflow.set_tags({"code_version": code_version(), **tags})
        yield run.info.run_id


@contextmanager
def reopened_run(uri: str, out: Path) -> Iterator[str]:
    """Open the MLflow run that an output folder's job was tracked in, to add to it; yield its id.

    Raises TrackingError where MLflow at `uri` cannot be reached or has no run of this folder.
    """
    _log_less()
    try:
        mlflow.set_tracking_uri(uri)
        experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
        runs = mlflow.MlflowClient().search_runs(experiments, f"tags.{_KEY_TAG} = '{_key(out)}'")
    except Exception as error:  # stores raise errors of their own libraries
        raise TrackingError(f"tracking_uri {uri}: MLflow cannot be read there: {first_line(error)}") from error
    if not runs:
        raise TrackingError(
            f"tracking_uri {uri}: no run of {out} there; name the address that it was trained with, or null to write "
            "to the folder alone"
        )
    with mlflow.start_run(run_id=runs[0].info.run_id) as run:
        yield run.info.run_id


def _log_less() -> None:
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs the traceback of an error that it raises as well, which a job tells in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def log_data_set(name: str, digest: str, profile: Mapping[str, Any]) -> None:
    """Log which data set a run was trained on: its name and the hash of its content."""
    source = mlflow.data.http_dataset_source.HTTPDatasetSource(url=f"urn:sha256:{digest}")
    data_set = mlflow.data.meta_dataset.MetaDataset(source, name=name, digest=digest[:36])
    tags = {key: str(value) for key, value in profile.items()}
    try:
        mlflow.log_input(data_set, context="training", tags=tags)
    except MlflowException:
        # MLflow looks for the data set and then inserts it: where a run on the same log has inserted it in between, it
        # is found the second time.
        mlflow.log_input(data_set, context="training", tags=tags)


def log_once(values: Mapping[str, float], step: int = 0) -> None:
    """Log metrics of one step, except those that the run already has because the job was killed and resumed."""
    run = mlflow.active_run()
    assert run is not None
    client = mlflow.MlflowClient()
    logged = client.get_run(run.info.run_id).data.metrics
    new = {
        name: value
        for name, value in values.items()
        if name not in logged or all(point.step != step for point in client.get_metric_history(run.info.run_id, name))
    }
    if new:
        mlflow.log_metrics(new, step=step)


def log_curve(name: str, points: Mapping[int, float]) -> None:
    """Log a metric's values by step; a value that the run already has for a step is not logged twice."""
    run = mlflow.active_run()
    assert run is not None
    logged = {point.step: point.value for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)}
    for step, value in points.items():
        if logged.get(step) != value:
            mlflow.log_metric(name, value, step=step)


def log_report(
    values: Mapping[str, Any], figures: Mapping[str, Figure], file: str = "report.json", text: str | None = None
) -> None:
    """Log an evaluation and its figures with the run; `text` is the same as Markdown, which MLflow shows as tables."""
    mlflow.log_dict(dict(values), file)
    if text is not None:
        mlflow.log_text(text, str(Path(file).with_suffix(".md")))
    for name, figure in figures.items():
        mlflow.log_figure(figure, f"figures/{name}")


def code_version() -> str:
    """Return the version of the code: the commit of a Git checkout, else the installed version."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed in another project's repository, git would return that one's commit
        return version("rm-rec")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return version("rm-rec")
    return commit


def _key(out: Path) -> str:
    """Return the key of the folder's run, written before the run is created: a killed job makes no second run."""
    file = out / _KEY_FILE
    if not file.exists() or not file.read_text().strip():
        write_text(file, uuid.uuid4().hex)
    return file.read_text().strip()


def _find(experiment: str, key: str, tags: Mapping[str, str]) -> str | None:
    """Return the id of the folder's run with these tags; a run of another config or log is left alone."""
    for run in mlflow.MlflowClient().search_runs([experiment], f"tags.{_KEY_TAG} = '{key}'"):
        if all(run.data.tags.get(name, value) == value for name, value in tags.items()):
            return str(run.info.run_id)
    return None
