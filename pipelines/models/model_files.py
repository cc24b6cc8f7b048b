"""Where a model's files are: in a folder, or in MLflow."""

from pathlib import Path

import mlflow

from pipelines.errors import TrackingError, first_line

_IN_MLFLOW = ("models:", "runs:", "mlflow-artifacts:")
_WITHIN = (".", "model", "artifacts/model")  # a model itself, a run's folder, a model that MLflow can serve


def find_model(address: str, tracking_uri: str) -> Path:
    """Return the folder of a model's files, fetched first where MLflow holds them.

    `address` is a folder (a model's, or that of the run that trained it), models:/NAME/VERSION, models:/NAME@ALIAS or
    runs:/RUN/model. Raises TrackingError where MLflow has no such model; a folder without one is returned as it is.
    """
    if not address.startswith(_IN_MLFLOW):
        return _within(Path(address))
    try:
        mlflow.set_tracking_uri(tracking_uri)  # models:/ is looked up there alone, whatever the call below is told
        return _within(Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=tracking_uri)))
    except Exception as error:  # stores raise errors of their own libraries
        reason = first_line(error)
        raise TrackingError(f"{address}: MLflow at {tracking_uri} does not give this model: {reason}") from error


def _within(folder: Path) -> Path:
    return next((folder / name for name in _WITHIN if (folder / name / "model.json").exists()), folder)
