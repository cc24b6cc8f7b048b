"""Logging a run's best model in MLflow and registering it as the candidate, exactly once even if the job is killed."""

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.types import DataType

from feature_store.data_config import DataConfig
from pipelines.errors import TrackingError, first_line
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.registry.lineage import Lineage
from pipelines.registry.mlflow_model import served_types, write_mlflow_model
from pipelines.registry.model_registry import CANDIDATE, CHAMPION
from pipelines.registry.served_columns import MODEL

NOTE = "mlflow.note.content"  # MLflow shows this tag of a run or model as its description
_VERSIONS = "mlflow.modelVersions"  # by this tag a model's page links to its versions
_ABOUT = (
    f"Click models that answer from users' memories. `{CANDIDATE}` is the last one trained, `{CHAMPION}` the one to "
    "serve: pipelines.promote moves it. Each version's description has its metrics and how to serve it."
)


def register(
    folder: Path,
    name: str | None,
    data: DataConfig,
    metrics: Mapping[str, Any],
    tags: Mapping[str, str],
    allowed_packages: Collection[str] = (),
) -> str | None:
    """Log a model's folder with the active run and, given a name, register it as the candidate; return `models:/…`.

    `data` is the config of the log, `metrics` are those of metrics.json, `tags` have the hashes of the run's config and
    log. Raises TrackingError if MLflow refuses the name.
    """
    run = mlflow.active_run()
    assert run is not None
    trained = load_model(folder, allowed_packages)
    lineage = Lineage.of(trained.card, metrics, tags, data.log)
    mlflow.set_tag(NOTE, lineage.note)
    logged = _log(folder, trained, served_types(data, trained.card), lineage)
    if name is None:
        return None
    client = mlflow.MlflowClient()
    try:
        _create_registered_model(client, name)
        versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
        # A run that was killed after registration has a version already.
        version = next((existing for existing in versions if existing.name == name), None)
        if version is None:
            version = client.create_model_version(
                name,
                f"models:/{logged.model_id}",
                run.info.run_id,
                tags=dict(lineage.tags),
                description=lineage.note,
                model_id=logged.model_id,
            )
            versions = [*versions, version]
        links = [{"name": linked.name, "version": linked.version} for linked in versions]
        client.set_logged_model_tags(logged.model_id, {_VERSIONS: json.dumps(links)})
        client.set_registered_model_alias(name, CANDIDATE, version.version)
    except MlflowException as error:
        raise TrackingError(f"tracking.register_as {name!r}: MLflow refuses it: {first_line(error)}") from error
    return f"models:/{name}/{version.version}"


def _log(folder: Path, trained: TrainedModel, types: Mapping[str, DataType], lineage: Lineage) -> LoggedModel:
    """Log the model with its run, or complete it if the job was killed: each step can be repeated."""
    run = mlflow.active_run()
    assert run is not None
    run_id = run.info.run_id
    client = mlflow.MlflowClient()
    existing = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}' AND name = '{MODEL}'")
    tags = {**lineage.tags, NOTE: lineage.note}
    params = client.get_run(run_id).data.params
    logged = existing[0] if existing else mlflow.initialize_logged_model(MODEL, run_id, tags, params, "click model")
    if logged.status == LoggedModelStatus.READY:
        return logged
    with tempfile.TemporaryDirectory() as draft:
        identity = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id
        )
        write_mlflow_model(Path(draft) / MODEL, folder, trained, types, identity)
        client.log_model_artifacts(logged.model_id, str(Path(draft) / MODEL))
    _link_metrics(client, run_id, logged.model_id, lineage)
    outputs = client.get_run(run_id).outputs
    if not any(output.model_id == logged.model_id for output in (outputs.model_outputs if outputs else [])):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _link_metrics(client: mlflow.MlflowClient, run_id: str, model_id: str, lineage: Lineage) -> None:
    """Link the run's metrics to the model and its log: the same points, which MLflow stores once."""
    logs = client.get_run(run_id).inputs.dataset_inputs
    name, digest = (logs[0].dataset.name, logs[0].dataset.digest) if logs else (None, None)
    points = [point for metric in lineage.metrics for point in client.get_metric_history(run_id, metric)]
    metrics = [
        Metric(point.key, point.value, point.timestamp, point.step, model_id, name, digest, run_id) for point in points
    ]
    client.log_batch(run_id, metrics=metrics)


def _create_registered_model(client: mlflow.MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description=_ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
