"""Retention of finished runs: kept in the folder and in MLflow, drawn beside another run's, nothing trained anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.small_runs import Ended, Kill, one_line, run_forked

QUICK = ("--retention.probe_steps", "5", "--retention.events_asked", "2000", "--resamples", "5", "--threads", "1")
WITHOUT = ("--rehearsal", "null")


@pytest.fixture(scope="module")
def train(folder: Path, quickstart: Callable[..., list[str]]) -> Callable[..., Path]:
    def job(name: str, *more: object, recipes: tuple[str, ...] = ("quickstart.yaml",)) -> Path:
        out = folder / "retention" / name
        named = ("--tracking.experiment", name, "--tracking.register_as", "null", "--training.epochs", "1")
        ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, *named, *map(str, more), recipes=recipes))
        assert ended.returncode == 0, ended.stderr
        return out

    return job


@pytest.fixture(scope="module")
def measure(folder: Path, tracking_uri: str) -> Callable[..., Ended]:
    def job(run: Path, *more: object, kill: Kill | None = None) -> Ended:
        argv = ("--run", run, "--tracking_uri", tracking_uri, *QUICK, *more)
        return run_forked(folder, "pipelines.retention", *argv, kill=kill)

    return job


@pytest.fixture(scope="module")
def without(train: Callable[..., Path], measure: Callable[..., Ended]) -> Path:
    out = train("without", *WITHOUT)
    ended = measure(out)
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def rehearsed(train: Callable[..., Path]) -> Path:
    return train("with")


def retained(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "retention.json").read_text())
    return values


def run_of(uri: str, experiment: str) -> Any:
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def test_a_run_is_drawn_beside_one_without_rehearsal(
    measure: Callable[..., Ended], rehearsed: Path, without: Path, tracking_uri: str
) -> None:
    before = {path.name: path.read_bytes() for path in rehearsed.iterdir() if path.is_file()}
    weights = (rehearsed / "model" / "model.safetensors").read_bytes()
    ended = measure(rehearsed, "--compare_with", without)
    assert ended.returncode == 0, ended.stderr
    assert "Retention by age, in segments of 8 events" in ended.stdout
    assert "with recollects" in ended.stdout
    assert "without AUC" in ended.stdout
    values = retained(rehearsed)
    assert values["compared_with"] == str(without)
    asked = values["recollection"]["memory"]["overall"]["rows"]
    assert asked == sum(point["rows"] for point in values["recollection"]["memory"]["by_age"].values())
    assert asked > 500
    theirs = retained(without)["recollection"]["memory"]["by_age"]
    ours = values["recollection"]["memory"]["by_age"]
    assert {age: point["rows"] for age, point in ours.items()} == {age: point["rows"] for age, point in theirs.items()}
    assert "0" not in ours
    client, run = mlflow.MlflowClient(tracking_uri), run_of(tracking_uri, "with")
    figures = {"figures/retention_recollection.png", "figures/retention_auc.png"}
    assert figures <= {entry.path for entry in client.list_artifacts(run.info.run_id, "figures")}
    assert all((rehearsed / Path(name).name).exists() for name in figures)
    kept = {name: client.get_metric_history(run.info.run_id, f"retention_{name}") for name in ("recollection", "auc")}
    assert {point.step: point.value for point in kept["recollection"]} == {
        int(age.partition("-")[0].rstrip("+")): point["estimate"]["value"] for age, point in ours.items()
    }
    assert min(point.step for point in kept["auc"]) == 0
    overall = values["recollection"]["memory"]["overall"]["estimate"]["value"]
    assert run.data.metrics["retention_recollection_all"] == overall
    whole = client.get_metric_history(run.info.run_id, "retention_recollection_all")
    assert [point.step for point in whole] == [0], "what has no age has step 0"
    assert {name: (rehearsed / name).read_bytes() for name in before} == before
    assert (rehearsed / "model" / "model.safetensors").read_bytes() == weights
    again = measure(rehearsed, "--compare_with", without)
    assert "nothing to do" in again.stdout
    assert "Retention by age" in again.stdout


def test_ages_are_those_that_the_log_tells(without: Path) -> None:
    ranking = retained(without)["ranking"]
    assert ranking["known_age"]
    rows = pq.read_table(without / "predictions.parquet", filters=[("split", "=", "test")])
    counted = sum(point["rows"] for point in ranking["by_age"].values())
    assert ranking["never"]["rows"] == pc.sum(pc.equal(rows["deciding_age"], 0)).as_py()
    assert counted + ranking["never"]["rows"] == len(rows)
    assert ranking["best_possible"].keys() == ranking["by_age"].keys()


def test_killed_while_it_measures_it_is_run_again(
    measure: Callable[..., Ended], without: Path, tracking_uri: str
) -> None:
    values = retained(without)
    (without / "retention.json").unlink()
    kill = Kill("pipelines.evaluation.retention_results:tracking.log_report", when="after")
    assert measure(without, kill=kill).returncode == -9
    assert not (without / "retention.json").exists()
    ended = measure(without)
    assert ended.returncode == 0, ended.stderr
    assert retained(without) == values
    assert run_of(tracking_uri, "without").info.status == "FINISHED"


def test_a_model_without_a_memory_has_its_auc_alone_and_needs_no_mlflow(
    measure: Callable[..., Ended], folder: Path, quickstart: Callable[..., list[str]], without: Path
) -> None:
    out = folder / "retention" / "window"
    argv = quickstart(out, "--training.epochs", "1", recipes=("quickstart.yaml", "models/window_only.yaml"))
    for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
        position = argv.index(option)
        del argv[position : position + 2]
    ended = run_forked(folder, "pipelines.train_ctr", *argv, "--tracking.register_as", "null")
    assert ended.returncode == 0, ended.stderr
    ended = measure(out, "--compare_with", without, "--tracking_uri", "null")
    assert ended.returncode == 0, ended.stderr
    assert "No recollection curve of this run: its model has no memory" in ended.stdout
    assert retained(out)["recollection"] is None
    assert retained(out)["ranking"]["by_age"]["0"]["estimate"]["value"] is not None
    line = one_line(measure(out, "--tracking_uri", f"sqlite:///{folder / 'another.db'}"))
    assert f"no run of {out} there; name the address that it was trained with" in line


def test_without_known_ages_a_click_is_as_old_as_the_last_event_on_its_item(
    train: Callable[..., Path], measure: Callable[..., Ended]
) -> None:
    out = train("items", *WITHOUT, recipes=("next_event.yaml",))
    ended = measure(out)
    assert ended.returncode == 0, ended.stderr
    ranking = retained(out)["ranking"]
    assert not ranking["known_age"]
    rows = pq.read_table(out / "predictions.parquet", filters=[("split", "=", "test")])
    clicks = sum(point["rows"] for point in ranking["by_age"].values()) + ranking["never"]["rows"]
    assert clicks == pc.sum(rows["label"]).as_py()


def test_what_cannot_be_measured_or_compared_is_refused(
    measure: Callable[..., Ended], rehearsed: Path, without: Path, folder: Path
) -> None:
    absent, damaged = folder / "absent", folder / "damaged"
    damaged.mkdir()
    (damaged / "retention.json").write_text("{}")
    assert f"error: {absent}: no finished training run; expected run.json" in one_line(measure(absent))
    expected = {
        absent: f"compare_with {absent}: expected a retention.json, found none; measure that run first: "
        f"python -m pipelines.retention --run {absent}",
        damaged: "found one that is damaged or of another version",
        rehearsed: "this is the run's own folder; name another run's",
    }
    for other, message in expected.items():
        assert message in one_line(measure(rehearsed, "--compare_with", other))
    line = one_line(measure(rehearsed, "--compare_with", without, "--retention.probe_steps", "4"))
    assert line.startswith(f"error: compare_with {without}: probe_steps is 5 there, 4 here; curves compare only where")
    for option, value, message in (
        ("--retention.age_column", "age", "'age' is not carried; predictions.parquet has true_probability"),
        ("--retention.age_bins", "0,2,2", "age_bins must increase, found [0, 2, 2]"),
        ("--device", "toaster", "device 'toaster' cannot be used here"),
    ):
        assert message in one_line(measure(rehearsed, option, value))


def test_train_ctr_says_where_retention_is_measured(folder: Path, quickstart: Callable[..., list[str]]) -> None:
    argv = quickstart(folder / "retention" / "old", "--retention.enabled", "true")
    line = one_line(run_forked(folder, "pipelines.train_ctr", *argv))
    assert "retention is measured by a job of its own: python -m pipelines.retention --run FOLDER" in line
