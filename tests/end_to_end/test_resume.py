"""A run that is killed at any moment goes on as if it had not been: same numbers, one run in MLflow, one version."""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.models.artifact import load_model
from tests.support.small_runs import Ended, Kill, run_forked

MOMENTS = {
    "the log is written but not counted": Kill("feature_store.logs.preparation:_write_timelines"),
    "the run is open in MLflow, with nothing kept": Kill("mlflow:start_run", when="after"),
    "before the first checkpoint": Kill("pipelines.training.fit:training_step", call=1, when="after"),
    "in the middle of an epoch": Kill("pipelines.training.fit:training_step", call=3),
    "while a checkpoint is written": Kill("pipelines.training.checkpoint:_optimizer_tensors", call=2),
    "the epoch is in the checkpoint but not in MLflow": Kill("pipelines.train_ctr.job:_report_epoch"),
    "between two epochs": Kill("pipelines.train_ctr.job:_report_epoch", when="after"),
    "while the held-out impressions are scored": Kill("pipelines.train_ctr.job:predict", call=2),
    "the model is in MLflow without its files": Kill("pipelines.registry.registration:write_mlflow_model"),
    "the model is in MLflow but not registered": Kill("pipelines.registry.registration:_log", when="after"),
    "the model is registered but metrics.json is not written": Kill("pipelines.train_ctr.job:write_json"),
}
# A checkpoint after each batch. Dropout, so that the random state counts.
ARGUMENTS = ("--training.epochs", "3", "--training.checkpoint_minutes", "1e-9", "--model.head.dropout", "0.2")


@pytest.fixture(scope="module")
def train(folder: Path, quickstart: Callable[..., list[str]]) -> Callable[..., Ended]:
    def job(name: str, *more: str, kill: Kill | None = None) -> Ended:
        named = ("--tracking.experiment", name, "--tracking.register_as", name)
        argv = quickstart(folder / "runs" / name, *ARGUMENTS, *named, *more)
        return run_forked(folder, "pipelines.train_ctr", *argv, kill=kill)

    return job


@pytest.fixture(scope="module")
def unbroken(train: Callable[..., Ended], folder: Path) -> Path:
    ended = train("unbroken")
    assert ended.returncode == 0, ended.stderr
    return folder / "runs" / "unbroken"


def untimed(out: Path) -> dict[str, Any]:
    """Read metrics.json without how long things took."""
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["score_seconds"]
    for epoch in metrics["epochs"]:
        del epoch["train_seconds"]
    return metrics


def assert_same_result(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    assert pq.read_table(one / "predictions.parquet").equals(pq.read_table(other / "predictions.parquet"))
    weights = load_model(one / "model").model.state_dict()
    theirs = load_model(other / "model").model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights.items())


def assert_one_whole_run(uri: str, name: str, epochs: list[dict[str, Any]]) -> None:
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.head.dropout"] == "0.2"
    assert len(run.inputs.dataset_inputs) == 1
    for key, column in (("loss", "loss"), ("epoch_validation_auc", "validation_auc")):
        curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        assert sorted(curve) == [(epoch["number"], epoch[column]) for epoch in epochs]
    assert len(client.get_metric_history(run.info.run_id, "test_auc")) == 1
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == run.info.run_id
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_killed_at_every_moment(train: Callable[..., Ended], unbroken: Path, folder: Path, tracking_uri: str) -> None:
    out = folder / "runs" / "killed"
    for moment, kill in MOMENTS.items():
        ended = train("killed", kill=kill)
        assert ended.returncode == -9, f"{moment}: {ended.returncode} {ended.stderr}"
        assert not (out / "metrics.json").exists(), moment
    ended = train("killed")
    assert ended.returncode == 0, ended.stderr
    assert f"resuming {out} after epoch 3, batch 0" in ended.stdout
    assert_same_result(out, unbroken)
    assert_one_whole_run(tracking_uri, "killed", untimed(unbroken)["epochs"])


def test_killed_in_the_first_epoch_only(
    train: Callable[..., Ended], unbroken: Path, folder: Path, tracking_uri: str
) -> None:
    out = folder / "runs" / "early"
    assert train("early", kill=Kill("pipelines.training.fit:training_step", call=3)).returncode == -9
    ended = train("early")
    assert f"resuming {out} after epoch 0, batch 2" in ended.stdout
    assert_same_result(out, unbroken)
    assert_one_whole_run(tracking_uri, "early", untimed(unbroken)["epochs"])


def test_the_seed_decides(train: Callable[..., Ended], unbroken: Path, folder: Path) -> None:
    assert train("again").returncode == 0
    assert_same_result(folder / "runs" / "again", unbroken)
    assert train("other-seed", "--training.seed", "1").returncode == 0
    assert untimed(folder / "runs" / "other-seed")["test"]["auc"] != untimed(unbroken)["test"]["auc"]


def test_a_folder_of_another_config_is_refused_and_left_as_it_is(
    train: Callable[..., Ended], unbroken: Path, folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file() and path.name != ".lock"}
    for option, key, was in (("--data.split.test", "data.split.test", 0.1), ("--optimizer.lr", "optimizer.lr", None)):
        ended = train("unbroken", option, "0.2")
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"error: {unbroken} holds a run of another config: {key} is {was or ''}")
        assert "0.2 here" in line
        assert line.endswith("give another --out, or delete that folder to train anew")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_of_another_log_is_refused(train: Callable[..., Ended], log: Path, folder: Path) -> None:
    kill = Kill("pipelines.train_ctr.job:_report_epoch")
    assert train("other-log", kill=kill).returncode == -9
    shorter = folder / "data" / "shorter.parquet"
    pq.write_table(pq.read_table(log).slice(0, 2000), shorter)
    ended = train("other-log", "--data.log", str(shorter))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "holds a run of another config or log; give another --out" in line
    # The same log at another place is the same run.
    moved = folder / "data" / "moved"
    moved.mkdir()
    shutil.copy(log, moved / log.name)
    ended = train("other-log", "--data.log", str(moved / log.name))
    assert ended.returncode == 0, ended.stderr
    assert "resuming" in ended.stdout


def test_a_damaged_checkpoint_is_one_line(train: Callable[..., Ended], folder: Path) -> None:
    assert train("damaged", kill=Kill("pipelines.train_ctr.job:_report_epoch")).returncode == -9
    weights = folder / "runs" / "damaged" / "checkpoint" / "current" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    ended = train("damaged")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {weights} is damaged: ")
    assert line.endswith(f"delete {weights.parents[1]} to train anew")
    shutil.rmtree(weights.parents[1])
    assert train("damaged").returncode == 0


@pytest.mark.slow
def test_killed_at_random_moments(
    train: Callable[..., Ended], unbroken: Path, folder: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing.process as process

    draw, wait = random.Random(0), process.BaseProcess.join
    patience = [0.0]

    def impatient(self: Any, timeout: float | None = None) -> None:
        time.sleep(patience[0])
        self.kill()
        wait(self, 60)

    killed = 0
    with monkeypatch.context() as during:
        during.setattr(process.BaseProcess, "join", impatient)
        for _ in range(20):
            patience[0] = draw.uniform(0.3, 2.5)
            killed += train("random").returncode == -9
    assert killed > 5
    assert train("random").returncode == 0
    assert_same_result(folder / "runs" / "random", unbroken)
    assert_one_whole_run(tracking_uri, "random", untimed(unbroken)["epochs"])
