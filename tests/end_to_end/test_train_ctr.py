"""One training run, as a command: what it says, what it leaves on disk, what MLflow keeps, and what comes next."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow.entities import Run
from sklearn.metrics import log_loss, roc_auc_score

from feature_store.data_config import DataConfig
from pipelines.models.artifact import load_model
from pipelines.runs.tracking import code_version
from pipelines.training.data import TEST, LogData
from pipelines.training.fit import predict
from pipelines.training.settings import TrainingConfig
from tests.support.small_runs import Ended, run_alone, run_forked

EXPERIMENT, REGISTERED = "one-run", "one-run-model"


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    return folder / "runs" / "one"


@pytest.fixture(scope="module")
def ended(folder: Path, quickstart: Callable[..., list[str]], out: Path) -> Ended:
    named = ("--tracking.experiment", EXPERIMENT, "--tracking.register_as", REGISTERED)
    return run_alone(folder, "pipelines.train_ctr", *quickstart(out, *named))


@pytest.fixture(scope="module")
def metrics(ended: Ended, out: Path) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture(scope="module")
def tracked(ended: Ended, tracking_uri: str) -> tuple[mlflow.MlflowClient, Run]:
    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_it_says_what_it_made_and_no_more(ended: Ended, out: Path) -> None:
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert f"Model       {out / 'model'}, registered as models:/{REGISTERED}/1 (alias candidate)" in lines
    assert f"Predictions {out / 'predictions.parquet'}" in lines
    assert "…" not in ended.stdout
    assert all(line.startswith("training epoch ") for line in ended.stderr.splitlines()), ended.stderr


def test_the_next_command_runs(ended: Ended, out: Path, folder: Path, metrics: dict[str, Any]) -> None:
    *_, following, interface = ended.stdout.splitlines()
    python, minus_m, module, *arguments = shlex.split(following.removeprefix("Next: "))
    assert [Path(python).name[:6], minus_m, module] == ["python", "-m", "pipelines.evaluate"]
    assert interface.split()[1:4] == ["-m", "mlflow", "ui"]
    after = run_forked(folder, module, *arguments)
    assert after.returncode == 0, after.stderr
    again = json.loads((out / "report" / "metrics.json").read_text())["models"]["predictions"]["overall"]
    assert again["auc"]["value"] == metrics["test"]["auc"]


def test_metrics_are_those_of_the_predictions(metrics: dict[str, Any], out: Path) -> None:
    predictions = pq.read_table(out / "predictions.parquet")
    assert predictions.column_names == [
        *("user_id", "item_id", "timestamp", "split", "label", "history_length", "prediction"),
        *("true_probability", "deciding_age"),
    ]
    for split in ("validation", "test"):
        rows = predictions.filter(pc.equal(predictions["split"], split))
        labels, found = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        assert metrics[split]["impressions"] == len(rows)
        assert metrics[split]["auc"] == pytest.approx(roc_auc_score(labels, found), abs=1e-12)
        assert metrics[split]["logloss"] == pytest.approx(log_loss(labels, found), abs=1e-9)
        users = rows["user_id"].to_numpy()
        areas, weights = [], []
        for user in np.unique(users):
            mine = users == user
            if 0 < labels[mine].mean() < 1:
                areas.append(roc_auc_score(labels[mine], found[mine]))
                weights.append(mine.sum())
        assert metrics[split]["grouped_auc"] == pytest.approx(np.average(areas, weights=weights), abs=1e-12)


def test_predictions_are_of_the_log(log: Path, out: Path, metrics: dict[str, Any]) -> None:
    predictions = pq.read_table(out / "predictions.parquet")
    events = pq.read_table(log).append_column("place", [np.arange(pq.read_metadata(log).num_rows)])
    joined = predictions.join(events, ["user_id", "item_id", "timestamp"], right_suffix="_of_log")
    assert len(joined) == len(predictions)
    assert pc.all(pc.equal(joined["label"], joined["clicked"])).as_py()
    assert pc.all(pc.equal(joined["true_probability"], joined["true_probability_of_log"])).as_py()


def test_the_model_folder_gives_the_same_predictions(metrics: dict[str, Any], out: Path) -> None:
    trained = load_model(out / "model")
    config = DataConfig.model_validate(json.loads((out / "prepared" / "manifest.json").read_text())["config"])
    assert (config.columns, config.impressions) == (trained.card.columns, trained.card.impressions)
    prepared = LogData.prepare(config, out / "prepared", notify=lambda line: None)
    data = LogData(config, prepared.prepared, trained.vocabularies)
    again = predict(trained.model, data, TEST, TrainingConfig(batch_events=512))
    kept = pq.read_table(out / "predictions.parquet")
    kept = kept.filter(pc.equal(kept["split"], "test"))
    assert again["user_id"].to_pylist() == kept["user_id"].to_pylist()
    np.testing.assert_allclose(again["prediction"].to_numpy(), kept["prediction"].to_numpy(), rtol=0, atol=1e-6)
    assert {path.suffix for path in (out / "model").rglob("*") if path.is_file()} == {".safetensors", ".json", ".arrow"}


def test_mlflow_keeps_what_made_the_run(
    tracked: tuple[mlflow.MlflowClient, Run], out: Path, log: Path, metrics: dict[str, Any]
) -> None:
    client, run = tracked
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"]
    assert run.data.params["training.epochs"] == "2"
    assert run.data.params["data.log"] == str(log)
    manifest = json.loads((out / "prepared" / "manifest.json").read_text())
    assert run.data.tags["data_sha256"] == manifest["fingerprint"]
    assert run.data.tags["code_version"] == code_version()
    (used,) = run.inputs.dataset_inputs
    assert manifest["fingerprint"].startswith(used.dataset.digest)
    for name, key in (("loss", "loss"), ("epoch_validation_auc", "validation_auc")):
        curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert curve == [(epoch["number"], epoch[key]) for epoch in metrics["epochs"]]
    assert run.data.metrics["test_auc"] == metrics["test"]["auc"]


def test_mlflow_keeps_figures_config_and_model(
    tracked: tuple[mlflow.MlflowClient, Run], tracking_uri: str, tmp_path: Path, out: Path
) -> None:
    client, run = tracked
    names = {entry.path for entry in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/training.png", "figures/calibration.png", "figures/auc_by_history.png"} <= names
    config = client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(config).read_text())["training"]["threads"] == 1
    version = client.get_model_version_by_alias(REGISTERED, "candidate")
    assert version.run_id == run.info.run_id
    mlflow.set_tracking_uri(tracking_uri)
    kept = Path(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model", dst_path=str(tmp_path)))
    mlflow.set_tracking_uri(None)
    card = load_model(out / "model").card
    assert load_model(kept / "artifacts" / "model").card == card
    for name in ("data_sha256", "fingerprint", "code_version"):
        assert version.tags[name] == run.data.tags[name]
    assert version.tags["memory_space"] == card.memory_space
    assert version.tags["test_auc"] == f"{run.data.metrics['test_auc']:.4f}"
    assert f"{run.data.metrics['test_auc']:.4f}" in run.data.tags["mlflow.note.content"]


def test_a_finished_folder_is_left_as_it_is(
    out: Path, quickstart: Callable[..., list[str]], folder: Path, metrics: dict[str, Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    named = ("--tracking.experiment", EXPERIMENT, "--tracking.register_as", REGISTERED)
    again = run_forked(folder, "pipelines.train_ctr", *quickstart(out, *named))
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert f"{metrics['test']['auc']:.4f}" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
