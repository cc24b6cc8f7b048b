"""What MLflow keeps: the code's version with or without git, one run a folder, no point of a curve twice."""

import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

import pipelines
from pipelines.errors import TrackingError
from pipelines.runs import tracking
from pipelines.runs.settings import TrackingConfig
from pipelines.runs.tracking import code_version, log_curve, log_data_set, log_once, tracked_run

Config = Callable[..., TrackingConfig]


@pytest.fixture
def config(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingConfig]:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts
    yield TrackingConfig(uri=tracking_uri, experiment=tmp_path.name)
    mlflow.set_tracking_uri(None)


def test_the_code_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(pipelines.__file__).parents[1]
    if (root / ".git").exists():
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert commit.stdout[:12] in code_version()
    # Installed in an environment that lies inside another project's repository.
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "site-packages" / "pipelines" / "runs" / "tracking.py"))
    assert code_version() == version("rm-rec")


def test_without_git_the_code_is_named_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version() == version("rm-rec")


def test_a_folder_has_one_run(config: TrackingConfig, tmp_path: Path) -> None:
    settings = {"optimizer": {"lr": 0.1}, "columns": ["a"]}
    with tracked_run(config, tmp_path, settings, {"fingerprint": "f"}) as first:
        log_once({"loss": 0.5}, step=1)
    with tracked_run(config, tmp_path, {**settings, "out": "moved"}, {"fingerprint": "f"}) as second:
        log_once({"loss": 0.5, "other": 1.0}, step=1)
        log_once({"loss": 0.4}, step=2)
    assert first == second
    client = mlflow.MlflowClient(config.uri)
    run = client.get_run(first)
    assert run.data.params == {"optimizer.lr": "0.1", "columns": '["a"]', "out": "moved"}
    assert [(point.step, point.value) for point in client.get_metric_history(first, "loss")] == [(1, 0.5), (2, 0.4)]
    assert run.data.metrics["other"] == 1.0
    # Its files were deleted, and another config is trained here: another run.
    with tracked_run(config, tmp_path, settings, {"fingerprint": "g"}) as third:
        assert third != first


def test_a_curve_is_kept_once_and_a_new_value_is_the_later(config: TrackingConfig, tmp_path: Path) -> None:
    with tracked_run(config, tmp_path, {}, {"fingerprint": "f"}) as run:
        log_curve("auc", {0: 0.5, 3: 0.75})
        log_curve("auc", {0: 0.5, 3: 0.75})
        log_curve("auc", {0: 0.5, 3: 0.25})
    kept = mlflow.MlflowClient(config.uri).get_metric_history(run, "auc")
    assert sorted((point.step, point.value) for point in kept) == [(0, 0.5), (3, 0.25), (3, 0.75)]


def test_a_run_that_failed_is_taken_up(config: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracked_run(config, tmp_path, {}, {"fingerprint": "f"}) as first:
        _ = 1 / 0
    assert mlflow.MlflowClient(config.uri).get_run(first).info.status == "FAILED"
    with tracked_run(config, tmp_path, {}, {"fingerprint": "f"}) as second:
        assert second == first
    assert mlflow.MlflowClient(config.uri).get_run(first).info.status == "FINISHED"


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/none/mlflow.db"])
def test_an_address_that_cannot_be_used_is_named(tmp_path: Path, uri: str) -> None:
    try:
        with pytest.raises(TrackingError) as caught, tracked_run(TrackingConfig(uri=uri), tmp_path, {}, {}):
            pass
    finally:
        mlflow.set_tracking_uri(None)
    assert str(caught.value).startswith(f"tracking.uri {uri}: MLflow cannot open a run there: ")
    assert "\n" not in str(caught.value)


def test_a_data_set_that_another_run_logs_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's store looks for a data set and then inserts it: of two runs at once, one is refused."""
    logged: list[dict[str, str]] = []

    def log_input(data_set: object, context: str, tags: dict[str, str]) -> None:
        logged.append(tags)
        if len(logged) == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.digest")

    monkeypatch.setattr(mlflow, "log_input", log_input)
    log_data_set("log", "9bc1" * 16, {"events": 7})
    assert logged == [{"events": "7"}] * 2
