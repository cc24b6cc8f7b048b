"""Settings of tracking in MLflow."""

from pydantic import Field

from rm_rec.config.base import Settings


class TrackingConfig(Settings):
    """Where MLflow keeps runs and models."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI; the default is a SQLite file in the current folder."""
    experiment: str = Field("rm-rec", min_length=1)
    """Name of the MLflow experiment that the run belongs to."""
    register_as: str | None = None
    """Name of the registered model; null logs the model with the run without registering it."""
