"""A comparison as a command: what it makes, that it is made once, and one line where it cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
from mlflow.entities import Run

from pipelines.cli.help_text import dotted_keys
from pipelines.compare_machines import CompareMachines
from pipelines.train_ctr import TrainCtr
from tests.support.small_runs import Ended, run_forked

NAMES = ("window_only", "small", "rum", "rum+rehearsal")
TRAINED = {f"{name}/lr-0.003-seed-{seed}" for name in NAMES for seed in (0, 1)}
MADE = {"comparison.json", "costs.json", "report.md", "costs.png"} | {
    f"{what}_quickstart.png" for what in ("auc", "age", "popularity")
}


@pytest.fixture(scope="module")
def arguments(folder: Path, tracking_uri: str) -> list[str]:
    """Compare a file of one's own with a kind of machine."""
    small = folder / "small.yaml"
    small.write_text("model: {machine: {kind: associative, slot_dim: 8}}\n")
    names = ("--baselines", "window_only", "--candidates", f"{small},rum", "--rehearsed", "rum")
    tracked = ("--tracking.uri", tracking_uri, "--tracking.experiment", "compared")
    large = folder / "large" / "synthetic.parquet"  # which a quick comparison leaves alone
    large.parent.mkdir()
    large.write_text("not even a log")
    out = folder / "runs" / "compared"
    return [
        "--quick",
        "--data",
        str(large.parent),
        *names,
        *tracked,
        "--out",
        str(out),
        "--resamples",
        "20",
        "--jobs",
        "2",
    ]


@pytest.fixture(scope="module")
def out(arguments: list[str]) -> Path:
    return Path(arguments[arguments.index("--out") + 1])


def compare(folder: Path, *arguments: str) -> Ended:
    return run_forked(folder, "pipelines.compare_machines", *arguments)


@pytest.fixture(scope="module")
def ended(folder: Path, arguments: list[str]) -> Ended:
    return compare(folder, *arguments)


@pytest.fixture(scope="module")
def numbers(ended: Ended, out: Path) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    return found


@pytest.fixture(scope="module")
def tracked(ended: Ended, tracking_uri: str, out: Path) -> tuple[mlflow.MlflowClient, Run]:
    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("compared")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == len(TRAINED) + 1
    (run,) = (run for run in runs if run.data.params["out"] == str(out))
    return client, run


def runs_of(out: Path) -> dict[str, Path]:
    return {str(path.parent.relative_to(out / "quickstart")): path for path in out.rglob("metrics.json")}


def test_everything_that_is_asked_for_is_trained_and_told(ended: Ended, out: Path) -> None:
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stderr.splitlines()) == sorted(f"quickstart/{name}: done" for name in TRAINED)
    assert runs_of(out).keys() == TRAINED
    assert [path.name for path in out.glob("*.parquet")] == ["quick.parquet"]
    assert (out / "report.md").read_text().rstrip() in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"Wrote {out / 'report.md'}, comparison.json and the figures."
    assert {path.name for path in out.iterdir() if path.suffix in (".json", ".md", ".png")} == MADE
    assert all((out / name).stat().st_size > 100 for name in MADE)


def test_only_the_seed_of_training_differs_between_seeds(ended: Ended, out: Path) -> None:
    first, second = (
        json.loads((out / "quickstart" / f"rum/lr-0.003-seed-{seed}" / "run.json").read_text()) for seed in (0, 1)
    )
    different = {key for key in first["settings"] if first["settings"][key] != second["settings"].get(key)}
    assert different == {"training.seed"}
    tables = [pq.read_table(path.with_name("predictions.parquet")) for path in runs_of(out).values()]
    assert all(table.drop("prediction").equals(tables[0].drop("prediction")) for table in tables)


def test_numbers_are_those_of_the_runs(numbers: dict[str, Any], out: Path) -> None:
    (log,) = numbers["logs"]
    assert [outcome["candidate"] for outcome in log["outcomes"]] == [*NAMES]
    assert log["known_age"]
    for outcome in log["outcomes"]:
        for split in ("validation", "test"):
            metrics = [
                json.loads(runs_of(out)[f"{outcome['candidate']}/lr-0.003-seed-{seed}"].read_text()) for seed in (0, 1)
            ]
            assert outcome[split]["values"] == pytest.approx([one[split]["auc"] for one in metrics], abs=1e-12)
        low, high = outcome["test_interval"]
        assert low < high
    sizes = {outcome["candidate"]: outcome["state_bytes"] for outcome in log["outcomes"]}
    assert sizes["window_only"] == 0
    assert all(1900 < sizes[name] <= 2048 for name in NAMES[1:])
    assert numbers["costs"].keys() == set(NAMES)


def test_the_report_has_every_candidate_in_every_table(numbers: dict[str, Any], out: Path) -> None:
    text = (out / "report.md").read_text()
    for name in NAMES:
        assert text.count(f"\n| {name} |") == 4 + (name == "rum")  # rum with rehearsal and without is a table more
    assert "## quickstart" in text
    assert "Gains are over window_only." in text


def test_mlflow_keeps_the_comparison(tracked: tuple[mlflow.MlflowClient, Run], numbers: dict[str, Any]) -> None:
    client, run = tracked
    assert run.info.status == "FINISHED"
    found = {file.path for folder in ("", "figures") for file in client.list_artifacts(run.info.run_id, folder)}
    figures = {f"figures/{name}" for name in MADE if name.endswith(".png")}
    assert {"comparison.json", "comparison.md", "config.yaml", *figures} <= found
    by_name = {outcome["candidate"]: outcome for outcome in numbers["logs"][0]["outcomes"]}
    values = by_name["rum+rehearsal"]["test"]["values"]
    assert run.data.metrics["quickstart/rum with rehearsal/test_auc"] == pytest.approx(sum(values) / 2)
    assert {f"quickstart/{name}/validation_auc" for name in NAMES[:3]} <= run.data.metrics.keys()
    assert run.data.params["quick"] == "True"


def test_a_second_time_nothing_is_trained_and_the_report_is_written_anew(
    tracked: tuple[mlflow.MlflowClient, Run], folder: Path, arguments: list[str], out: Path
) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in runs_of(out).items()}
    report, costs = (out / "report.md").read_text(), (out / "costs.json").read_text()
    (out / "report.md").unlink()
    (out / "auc_quickstart.png").unlink()
    again = compare(folder, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert (out / "report.md").read_text() == report
    assert (out / "costs.json").read_text() == costs
    assert (out / "auc_quickstart.png").exists()
    assert {name: path.stat().st_mtime_ns for name, path in runs_of(out).items()} == before
    client, run = tracked
    assert len(client.search_runs([run.info.experiment_id])) == len(TRAINED) + 1


def test_what_is_missing_is_counted(
    ended: Ended, folder: Path, arguments: list[str], out: Path, tmp_path: Path
) -> None:
    """A candidate of which nothing is finished counts too."""
    shutil.copytree(out, tmp_path / "copy")
    where = ("--out", str(tmp_path / "copy"), "--tracking.experiment", "lacking")
    lacking = compare(folder, *arguments, *where, "--candidates", "ntm", "--jobs", "0")
    assert lacking.returncode == 1
    assert lacking.stdout.splitlines()[-1] == "2 of 10 runs are not finished: the same command resumes them."


def test_before_anything_is_trained_it_says_so(folder: Path, arguments: list[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = compare(folder, *arguments, "--out", str(empty), "--jobs", "0")
    assert ended.returncode == 1
    assert ended.stdout == f"No candidate is tuned yet; the runs are in {empty}.\n"
    assert ended.stderr == ""
    assert [*empty.iterdir()] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--candidates", "nmt"), "nmt: no such candidate; expected a YAML file, package.module:Class, or one of "),
        (("--baselines", "din_5"), "din_5: no such candidate"),
        (("--logs", "quikstart"), "quikstart: no such recipe; expected one of "),
        (("--logs", "movielens"), "the log of movielens does not exist; expected "),
        (("--candidates", "ntm,rum,ntm"), "ntm is named twice"),
        (("--candidates", "rum,window_only"), "window_only is named twice"),
        (("--candidates", "rum,mine/rum.yaml"), "rum is named twice"),
        (("--learning_rates", "0.003,0.0030000001"), "0.003 is named twice"),
        (("--candidates", "rum,mine/rum+wide.yaml"), "'rum+wide' names a folder and figures: use letters, "),
        (("--logs_of_best", "quickstart"), "quickstart is named twice"),
        (("--candidates", "rum,ntm+rehearsal"), "ntm+rehearsal: give ntm in candidates, and in rehearsed too"),
        (("--rehearsed", "nmt"), "rehearsed: nmt is no candidate; expected some of window_only, rum"),
        (("--learning_rates", "0.003,-1"), "must be greater than 0"),
        (("--state_bytes", "20", "--candidates", "mimn"), "mimn: machine mimn cannot be fitted to 20 bytes a user"),
        (("--candidates", "[]"), "candidates"),
    ],
)
def test_mistakes_are_one_line(folder: Path, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    sound = {"--logs": "quickstart", "--logs_of_best": "[]", "--baselines": "window_only", "--candidates": "rum"}
    given = sound | dict(zip(more[::2], more[1::2], strict=True))
    out = tmp_path / "out"
    ended = compare(folder, *(part for pair in given.items() for part in pair), "--out", str(out))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not out.exists()


def test_help_lists_every_key(folder: Path) -> None:
    ended = compare(folder, "--help")
    assert ended.returncode == 0
    keys = dotted_keys(CompareMachines)
    assert {"rehearsed", "state_bytes", "tracking.uri"} <= {*keys}
    for key in keys:
        assert f"--{key}" in ended.stdout
    assert not any(f"--{key} " in ended.stdout for key in dotted_keys(TrainCtr) if key.startswith("optimizer."))
