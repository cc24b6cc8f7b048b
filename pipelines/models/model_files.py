"""Locating a trained model's files, in a folder or in MLflow."""

from pathlib import Path

from pipelines.errors import TrackingError, first_line

_IN_MLFLOW = ("models:", "runs:", "mlflow-artifacts:")
_SUBFOLDERS = (".", "model", "artifacts/model")  # of a model's folder, of a run's folder, of an MLflow model


def find_model(address: str, tracking_uri: str) -> Path:
    """Return the folder of a model's files, downloaded first if they are in MLflow.

    `address` is a folder (a model's, or that of the run that trained it), models:/NAME/VERSION, models:/NAME@ALIAS or
    runs:/RUN_ID/model. A folder without a model is returned unchanged. Raises TrackingError if MLflow has none.
    """
    if not address.startswith(_IN_MLFLOW):
        return _model_folder(Path(address))
    import mlflow  # it takes seconds, and a folder does not need it

    try:
        mlflow.set_tracking_uri(tracking_uri)  # models:/ is looked up only there, whatever the call below passes
        return _model_folder(Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=tracking_uri)))
    except Exception as error:  # stores raise errors of their own libraries
        reason = first_line(error)
        raise TrackingError(f"{address}: MLflow at {tracking_uri} does not give this model: {reason}") from error


def _model_folder(folder: Path) -> Path:
    return next((folder / name for name in _SUBFOLDERS if (folder / name / "model.json").exists()), folder)
