"""Where a model's files are: in a folder, or in MLflow."""

from pathlib import Path

import mlflow

from feature_store.errors import DataError

_IN_MLFLOW = ("models:", "runs:", "mlflow-artifacts:")


def find_model(address: str, tracking_uri: str) -> Path:
    """Return the folder of a model's files, fetched first where MLflow holds them.

    `address` is a folder (a model's, or that of the run that trained it), models:/NAME/VERSION, models:/NAME@ALIAS or
    runs:/RUN/model. Raises DataError where there is no model.
    """
    if not address.startswith(_IN_MLFLOW):
        folder = Path(address)
        within_run = folder / "model"
        return within_run if not (folder / "model.json").exists() and within_run.is_dir() else folder
    try:
        mlflow.set_tracking_uri(tracking_uri)  # as an argument it would not be the registry's address too
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    except Exception as error:  # stores raise errors of their own libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{address}: MLflow at {tracking_uri} does not give this model: {reason}") from error
