"""Runs side by side are each made once, whatever fails, is killed or is stopped beside them."""

import os
import shutil
import signal
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from feature_store.datasets.settings import SyntheticConfig
from feature_store.errors import LockedError
from pipelines.cli import load_settings
from pipelines.comparison.run_grid import RunGrid
from pipelines.make_log.job import write_log
from pipelines.runs.run_folder import METRICS, held
from pipelines.runs.settings import TrackingConfig
from pipelines.train_ctr import TrainCtr
from tests.support.small_runs import RECIPES, SMALL_MODEL, fork_server
from tests.support.waiting import PATIENT, until

SMALL = SyntheticConfig(users=20, events_per_user=40, items=60, categories=20, early_interests=5, recent_interests=3)
Runs = dict[str, TrainCtr]


@pytest.fixture(scope="module", autouse=True)
def _server() -> None:
    """Fork the runs of this process's grids from the server that has imported everything."""
    fork_server()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    write_log(SMALL, path)
    return path


@pytest.fixture
def tracking(tmp_path: Path, tracking_uri: str) -> TrackingConfig:
    return TrackingConfig(uri=tracking_uri, experiment=tmp_path.name)


@pytest.fixture
def grid(tmp_path: Path, tracking: TrackingConfig) -> RunGrid:
    return RunGrid(tmp_path / "grid", tracking)


@dataclass(frozen=True)
class Done:
    """Runs that were asked for at once, one of which cannot be done."""

    grid: RunGrid
    tracking: TrackingConfig
    runs: dict[str, TrainCtr]
    found: dict[str, dict[str, Any]]
    said: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, log: Path, tracking_uri: str) -> Done:
    tracking = TrackingConfig(uri=tracking_uri, experiment="done")
    grid = RunGrid(tmp_path_factory.mktemp("done"), tracking)
    runs = {"log/a": settings(log), "log/lost": settings(log.with_name("lost.parquet")), "log/long": long_run(log)}
    with redirect_stderr(StringIO()) as said:
        found = grid.run(runs, 2)
    return Done(grid, tracking, runs, found, said.getvalue())


def test_runs_under_a_former_name_stay_where_they_are(grid: RunGrid) -> None:
    name, former = "log/slot_gru/seed-0", "log/rehearsal/seed-0"
    assert grid.folder(name) == grid.out / name
    (grid.out / former).mkdir(parents=True)
    assert grid.folder(name) == grid.out / former


def settings(log: Path, *more: str) -> TrainCtr:
    small = (*SMALL_MODEL, "--training.min_batches", "2", "--metrics.resamples", "0", "--training.epochs", "1")
    files = ("--config", str(RECIPES / "quickstart.yaml"), "--data.log", str(log))
    return load_settings(TrainCtr, [*files, *small, *more], prog="", description="")


def long_run(log: Path, epochs: int = 12) -> TrainCtr:
    """Train long enough to be stopped midway, with a checkpoint after each batch."""
    lasting = ("--training.epochs", str(epochs), "--training.patience", str(epochs))
    return settings(log, *lasting, "--training.checkpoint_minutes", "1e-9")


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    epochs = [{key: value for key, value in one.items() if key != "train_seconds"} for one in metrics["epochs"]]
    return {key: value for key, value in metrics.items() if key != "score_seconds"} | {"epochs": epochs}


def test_a_failure_is_reported_and_the_others_go_on(done: Done) -> None:
    assert [*done.found] == ["log/a", "log/long"]
    assert (len(done.found["log/a"]["epochs"]), len(done.found["log/long"]["epochs"])) == (1, 12)
    text = done.grid.folder("log/lost") / "log.txt"
    assert sorted(done.said.splitlines()) == ["log/a: done", "log/long: done", f"log/lost: FAILED, see {text}"]
    assert text.read_text().startswith("error: ")
    assert "lost.parquet" in text.read_text()


def test_runs_are_in_one_experiment_with_a_thread_each(done: Done) -> None:
    client = mlflow.MlflowClient(done.tracking.uri)
    tracked = client.search_runs([client.get_experiment_by_name("done").experiment_id])
    assert sorted(run.data.params["out"] for run in tracked) == [str(done.grid.folder(name)) for name in done.found]
    assert {run.data.params["training.threads"] for run in tracked} == {"1"}


def test_the_experiment_is_there_before_the_runs_are(grid: RunGrid, tracking: TrackingConfig, log: Path) -> None:
    """Two runs that both made it would not both be in it: this one fails before it would."""
    assert grid.run({"lost": settings(log.with_name("lost.parquet"))}, 1) == {}
    client = mlflow.MlflowClient(tracking.uri)
    assert client.get_experiment_by_name(tracking.experiment) is not None


def test_what_is_finished_is_not_run_again(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {name: done.runs[name] for name in done.found}
    before = {name: (done.grid.folder(name) / METRICS).stat().st_mtime_ns for name in runs}
    assert done.grid.finished(done.runs) == done.found
    assert done.grid.run(runs, 2) == done.found
    assert done.grid.run(done.runs, 0) == done.found
    assert {name: (done.grid.folder(name) / METRICS).stat().st_mtime_ns for name in runs} == before
    assert capsys.readouterr().err == ""


def test_another_setting_is_not_finished(done: Done, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"log/a": settings(log, "--optimizer.lr", "0.01")}
    assert done.grid.run(other, 0) == {}
    assert done.grid.run(other, 1) == {}  # the folder is the other run's
    assert "log/a: FAILED" in capsys.readouterr().err
    assert "holds a run of another config: optimizer.lr" in (done.grid.folder("log/a") / "log.txt").read_text()
    assert done.grid.finished(done.runs) == done.found


def test_another_log_is_not_finished_and_the_same_elsewhere_is(done: Done, log: Path, tmp_path: Path) -> None:
    same, other = (tmp_path / folder / log.name for folder in ("same", "other"))
    same.parent.mkdir()
    same.write_bytes(log.read_bytes())
    write_log(SMALL.model_copy(update={"seed": 1}), other)
    grid = RunGrid(tmp_path / "grid", done.tracking)
    shutil.copytree(done.grid.folder("log/a"), grid.folder("a"))
    assert grid.finished({"a": settings(same)}) == {"a": done.found["log/a"]}
    assert grid.finished({"a": settings(other)}) == {}
    assert grid.run({"a": settings(other)}, 1) == {}  # the folder is the other run's
    assert "holds a run of another config or log" in (grid.folder("a") / "log.txt").read_text()
    assert grid.finished({"a": settings(same)}) == {"a": done.found["log/a"]}


def test_no_jobs_run_nothing(grid: RunGrid, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.run({"a": settings(log)}, 0) == {}
    assert not grid.out.exists()
    assert capsys.readouterr().err == ""


def _run(out: str, tracking: TrackingConfig, runs: Runs) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(Path(out).parent)  # where MLflow keeps artifacts
    RunGrid(Path(out), tracking).run(runs, 1)


def is_free(folder: Path) -> bool:
    """Whether nobody holds a run's folder; a killed process does until its last thread has ended."""
    try:
        with held(folder):
            return True
    except LockedError:
        return False


class Started:
    """A grid in a process of its own, in the middle of its first run."""

    def __init__(self, grid: RunGrid, tracking: TrackingConfig, runs: Runs) -> None:
        self.process = fork_server().Process(target=_run, args=(str(grid.out), tracking, runs))
        self.process.start()
        assert self.process.pid is not None
        first = grid.folder(next(iter(runs)))
        until("the first run trains", lambda: (first / "checkpoint").is_dir() and any((first / "checkpoint").iterdir()))
        self.server, *_ = (one for one in psutil.Process(self.process.pid).children() if one.children())
        (self.training,) = self.server.children()

    def training_has_ended(self) -> bool:
        return not self.training.is_running() or self.training.status() == psutil.STATUS_ZOMBIE


def test_killed_it_leaves_nothing_running_and_goes_on_as_if_it_had_not_been(
    grid: RunGrid, tracking: TrackingConfig, log: Path, done: Done
) -> None:
    runs = {"a": long_run(log)}
    started = Started(grid, tracking, runs)
    assert started.process.pid is not None
    os.kill(started.process.pid, signal.SIGKILL)
    started.process.join(PATIENT)
    until("the training process ends", started.training_has_ended)
    until("nobody is at work there", lambda: is_free(grid.folder("a")))
    assert grid.finished(runs) == {}
    assert untimed(grid.run(runs, 1)["a"]) == untimed(done.found["log/long"])
    assert f"resuming {grid.folder('a')} after epoch" in (grid.folder("a") / "log.txt").read_text()


def test_interrupted_it_starts_no_more_runs(grid: RunGrid, tracking: TrackingConfig, log: Path) -> None:
    runs = {"a": long_run(log, epochs=1000), "b": long_run(log)}
    started = Started(grid, tracking, runs)
    assert started.process.pid is not None
    os.kill(started.process.pid, signal.SIGINT)  # Ctrl-C reaches both; but where tests run in the background, the
    started.training.terminate()  # training process, as all that was started there, takes no notice of it
    started.process.join(PATIENT)
    assert started.process.exitcode == 1
    assert started.training_has_ended()
    assert not (grid.folder("a") / METRICS).exists()
    assert not grid.folder("b").exists()
