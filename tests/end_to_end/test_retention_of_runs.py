"""Retention of whole runs: kept in the folder and in MLflow, drawn beside another run's, and no part of the fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.small_runs import Ended, Kill, run_forked

ON = ("--retention.enabled", "true", "--retention.probe_steps", "5", "--retention.events_asked", "2000")
WITHOUT = ("--rehearsal", "null")


@pytest.fixture(scope="module")
def train(folder: Path, quickstart: Callable[..., list[str]]) -> Callable[..., Ended]:
    def job(
        name: str, *more: object, recipes: tuple[str, ...] = ("quickstart.yaml",), kill: Kill | None = None
    ) -> Ended:
        named = ("--tracking.experiment", name, "--tracking.register_as", "null", "--training.epochs", "1")
        argv = quickstart(folder / "retention" / name, *named, *map(str, more), recipes=recipes)
        return run_forked(folder, "pipelines.train_ctr", *argv, kill=kill)

    return job


@pytest.fixture(scope="module")
def without(train: Callable[..., Ended], folder: Path) -> Path:
    ended = train("without", *WITHOUT, *ON)
    assert ended.returncode == 0, ended.stderr
    return folder / "retention" / "without"


def retained(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "retention.json").read_text())
    return found


def figures(uri: str, experiment: str) -> set[str]:
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {entry.path for entry in client.list_artifacts(run.info.run_id, "figures")}


def test_a_run_is_drawn_beside_one_without_rehearsal(
    train: Callable[..., Ended], without: Path, folder: Path, tracking_uri: str
) -> None:
    ended = train("with", *ON, "--retention.compare_with", without)
    assert ended.returncode == 0, ended.stderr
    assert "Retention by age, in segments of 8 events" in ended.stdout
    assert "with recollects" in ended.stdout
    assert "without AUC" in ended.stdout
    found = retained(folder / "retention" / "with")
    assert found["compared_with"] == str(without)
    asked = found["recollection"]["memory"]["overall"]["rows"]
    assert asked == sum(point["rows"] for point in found["recollection"]["memory"]["by_age"].values())
    assert asked > 500
    theirs = retained(without)["recollection"]["memory"]["by_age"]
    ours = found["recollection"]["memory"]["by_age"]
    assert {age: point["rows"] for age, point in ours.items()} == {age: point["rows"] for age, point in theirs.items()}
    assert "0" not in ours
    client = mlflow.MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("with").experiment_id])
    assert {"figures/retention_recollection.png", "figures/retention_auc.png"} <= figures(tracking_uri, "with")
    kept = {name: client.get_metric_history(run.info.run_id, f"retention_{name}") for name in ("recollection", "auc")}
    assert {point.step: point.value for point in kept["recollection"]} == {
        int(age.partition("-")[0].rstrip("+")): point["estimate"]["value"] for age, point in ours.items()
    }
    assert min(point.step for point in kept["auc"]) == 0
    assert (
        run.data.metrics["retention_recollection_all"]
        == found["recollection"]["memory"]["overall"]["estimate"]["value"]
    )


def test_ages_are_those_that_the_log_tells(without: Path) -> None:
    found = retained(without)["ranking"]
    assert found["known_age"]
    rows = pq.read_table(without / "predictions.parquet", filters=[("split", "=", "test")])
    counted = sum(point["rows"] for point in found["by_age"].values())
    assert found["never"]["rows"] == pc.sum(pc.equal(rows["deciding_age"], 0)).as_py()
    assert counted + found["never"]["rows"] == len(rows)
    assert found["best_possible"].keys() == found["by_age"].keys()


def test_the_fit_is_the_same_and_retention_can_be_asked_for_later(
    train: Callable[..., Ended], without: Path, folder: Path, tracking_uri: str
) -> None:
    out = folder / "retention" / "later"
    assert train("later", *WITHOUT).returncode == 0
    assert not (out / "retention.json").exists()
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert weights == (without / "model" / "model.safetensors").read_bytes()
    assert pq.read_table(out / "predictions.parquet").equals(pq.read_table(without / "predictions.parquet"))
    metrics = (out / "metrics.json").read_text()
    ended = train("later", *WITHOUT, *ON)
    assert ended.returncode == 0, ended.stderr
    assert "holds this very run, finished; measuring what it retains." in ended.stdout
    assert "training epoch" not in ended.stderr
    assert retained(out) == retained(without)
    assert (out / "metrics.json").read_text() == metrics
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    assert "figures/retention_auc.png" in figures(tracking_uri, "later")
    again = train("later", *WITHOUT, *ON)
    assert "nothing to do" in again.stdout
    assert "Retention by age" in again.stdout


def test_a_run_killed_while_it_is_measured_goes_on(
    train: Callable[..., Ended], without: Path, folder: Path, tracking_uri: str
) -> None:
    kill = Kill("pipelines.evaluation.retention_report:measure", when="after")
    out = folder / "retention" / "killed-retention"
    assert train("killed-retention", *WITHOUT, *ON, kill=kill).returncode == -9
    assert (out / "metrics.json").exists()
    assert not (out / "retention.json").exists()
    ended = train("killed-retention", *WITHOUT, *ON)
    assert ended.returncode == 0, ended.stderr
    assert retained(out) == retained(without)
    experiment = mlflow.MlflowClient(tracking_uri).get_experiment_by_name("killed-retention")
    (run,) = mlflow.MlflowClient(tracking_uri).search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"


def test_a_model_without_a_memory_has_its_auc_alone(
    train: Callable[..., Ended], folder: Path, tracking_uri: str, quickstart: Callable[..., list[str]], without: Path
) -> None:
    out = folder / "retention" / "window"
    argv = quickstart(out, "--training.epochs", "1", recipes=("quickstart.yaml", "models/window_only.yaml"))
    for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
        place = argv.index(option)
        del argv[place : place + 2]
    named = ("--tracking.experiment", "window", "--tracking.register_as", "null", "--retention.compare_with", without)
    ended = run_forked(folder, "pipelines.train_ctr", *argv, *ON, *named)
    assert ended.returncode == 0, ended.stderr
    assert "No recollection curve of this run: its model has no memory" in ended.stdout
    assert retained(out)["recollection"] is None
    assert retained(out)["ranking"]["by_age"]["0"]["estimate"]["value"] is not None


def test_without_known_ages_a_click_is_as_old_as_the_last_event_on_its_item(
    train: Callable[..., Ended], folder: Path
) -> None:
    ended = train("items", *WITHOUT, *ON, recipes=("next_event.yaml",))
    assert ended.returncode == 0, ended.stderr
    found = retained(folder / "retention" / "items")["ranking"]
    assert not found["known_age"]
    rows = pq.read_table(folder / "retention" / "items" / "predictions.parquet", filters=[("split", "=", "test")])
    clicks = sum(point["rows"] for point in found["by_age"].values()) + found["never"]["rows"]
    assert clicks == pc.sum(rows["label"]).as_py()


def test_what_cannot_be_compared_is_refused_before_training(
    train: Callable[..., Ended], without: Path, folder: Path
) -> None:
    absent, out = folder / "absent", folder / "retention" / "refused"
    (folder / "damaged").mkdir()
    (folder / "damaged" / "retention.json").write_text("{}")
    expected = {
        absent: f"retention.compare_with {absent}: expected a retention.json, found none; run train_ctr on that folder "
        "with --retention.enabled true first",
        folder / "damaged": "found one that is damaged or of another version",
        out: "this is the run's own folder; name another run's",
    }
    for other, message in expected.items():
        ended = train("refused", *ON, "--retention.compare_with", other)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert message in line
    for option, key in (("--retention.probe_steps", "probe_steps"), ("--model.segment_length", "model.segment_length")):
        ended = train("refused", *ON, "--retention.compare_with", without, option, "4")
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"error: retention.compare_with {without}: {key} is ")
        assert "there, 4 here; curves compare only where" in line
    assert not (out / "checkpoint").exists()
    for option, value, message in (
        ("--retention.enabled", "false", "compare_with needs --retention.enabled true"),
        ("--retention.age_column", "age", "'age' is not carried; data.impressions.carry has true_probability"),
        ("--retention.age_bins", "0,2,2", "age_bins must increase, found [0, 2, 2]"),
    ):
        ended = train("refused", *ON, "--retention.compare_with", without, option, value)
        assert ended.returncode == 2
        assert message in ended.stderr
