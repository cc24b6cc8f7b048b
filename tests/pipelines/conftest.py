"""One MLflow database for all tests here: making its tables takes seconds."""

import mlflow
import pytest


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a tracking address; a test takes an experiment of its own name."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"
    mlflow.MlflowClient(uri).search_experiments()
    return uri
