"""A small log, one MLflow database, and the arguments of a small training run on them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import mlflow
import pytest
from small_runs import RECIPES, SMALL_LOG, SMALL_MODEL, run_forked

from pipelines import make_log


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that commands are run in."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def log(folder: Path) -> Path:
    """Make the small log once."""
    path = folder / "data" / "log.parquet"
    assert make_log.main(["--out", str(path), *SMALL_LOG]) == 0
    return path


@pytest.fixture(scope="session")
def tracking_uri(folder: Path) -> str:
    """Make one MLflow database for all tests: making its tables takes longer than training on the small log."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture(scope="session")
def quickstart(log: Path, tracking_uri: str) -> Callable[..., list[str]]:
    """Return the arguments of a small training run: `quickstart(out, "--training.epochs", "1")`."""

    def arguments(out: Path, *more: str, recipes: Sequence[str] = ("quickstart.yaml",)) -> list[str]:
        files = [part for name in recipes for part in ("--config", str(RECIPES / name))]
        small = [*SMALL_MODEL, "--training.epochs", "2", "--tracking.uri", tracking_uri]
        return [*files, "--data.log", str(log), "--out", str(out), *small, *more]

    return arguments


@pytest.fixture(scope="session")
def trained(folder: Path, quickstart: Callable[..., list[str]]) -> Path:
    """Train one small model, registered as to-evaluate, and return the folder of its run."""
    out = folder / "runs" / "to-evaluate"
    named = ("--tracking.experiment", "to-evaluate", "--tracking.register_as", "to-evaluate")
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, "--training.epochs", "1", *named))
    assert ended.returncode == 0, ended.stderr
    return out
