"""A model of another package's machine, reader, encoder and source: trained, scored and served by permission."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import build_memory, evaluate, promote, score_batch, train_ctr
from pipelines.errors import ModelError
from pipelines.models.artifact import load_model
from rm_rec.errors import ConfigError, RmRecError
from tests.support.acme import OUTSIDE
from tests.support.small_runs import run_forked

FADING = "acme_memory.machines:FadingMeanMachine"
RECIPE = {
    "model": {
        "machine": {"kind": FADING, "num_means": 3},
        "reader": {"kind": "acme_memory.parts:MeanReader"},
        "encoder": {"kind": "acme_memory.parts:ScaledEncoder"},
        "sources": {"counts": {"kind": "acme_memory.sources:CountsSource", "num_buckets": 16}},
    }
}
NAME, ALLOW = "of-acme", ("--allow-package", "acme_memory")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "acme.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def training(recipe: Path, quickstart: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return the arguments of a training run with the recipe."""

    def arguments(out: Path, *more: str) -> list[str]:
        argv = quickstart(out, "--training.epochs", "1", "--config", str(recipe), *more)
        for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
            del argv[argv.index(option) : argv.index(option) + 2]
        return argv

    return arguments


@pytest.fixture(scope="module")
def run(folder: Path, training: Callable[..., list[str]]) -> Path:
    """Train and register the model once, in a process of its own."""
    out = folder / "runs" / "acme"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(OUTSIDE))
        ended = run_forked(folder, "pipelines.train_ctr", *training(out, *ALLOW, "--tracking.register_as", NAME))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def memories(folder: Path, run: Path, log: Path) -> str:
    store = str(folder / "acme-memories")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(OUTSIDE))
        ended = run_forked(folder, "pipelines.build_memory", *building(run, store, log, folder / "acme-build"), *ALLOW)
    assert ended.returncode == 0, ended.stderr
    assert "score_batch" in ended.stdout
    assert "--allow-package acme_memory --candidates" in ended.stdout
    return store


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def candidates(log: Path, tmp_path: Path) -> Path:
    events = pq.read_table(log)
    later = pa.array([int(max(events["timestamp"].to_pylist())) + 1] * 5)
    path = tmp_path / "candidates.parquet"
    pq.write_table(events.select(["user_id", "item_id"]).slice(0, 5).append_column("timestamp", later), path)
    return path


def building(run: Path, memories: str, log: Path, out: Path) -> list[str]:
    return ["--model", str(run), "--memories", memories, "--log", str(log), "--out", str(out), "--threads", "1"]


def evaluating(run: Path, log: Path, out: Path) -> list[str]:
    return ["--model", str(run / "model"), "--data.log", str(log), "--out", str(out), "--metrics.resamples", "5"]


def scoring(run: Path, memories: str, candidates: Path, out: Path) -> list[str]:
    return ["--model", str(run), "--memories", memories, "--candidates", str(candidates), "--out", str(out)]


def refused(job: Callable[[list[str]], int], argv: list[str]) -> str:
    with pytest.raises(RmRecError) as caught:
        job(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_is_refused_before_anything_is_read(
    acme: Callable[[], bool], training: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"needs code of package 'acme_memory'.*--allow-package acme_memory"):
        train_ctr.main(training(tmp_path / "out"))
    assert not acme()
    assert not (tmp_path / "out").exists()


def test_what_was_trained_names_its_settings_and_its_package(run: Path) -> None:
    card = json.loads((run / "model" / "model.json").read_text())
    assert card["format"] == 3
    assert card["packages"] == ["acme_memory"]
    assert card["model"]["machine"] == {"kind": FADING, "num_means": 3, "longest": 64.0}
    assert card["model"]["encoder"] == {"kind": "acme_memory.parts:ScaledEncoder", "start": 1.0}
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["model.machine.longest"] == 64.0
    assert not any(key.startswith("allow_package") for key in settings)


def test_a_run_is_the_same_whoever_is_allowed_besides(
    acme: Callable[[], bool], run: Path, training: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--allow-package", "acme_memory", "--allow-package", "elsewhere")
    assert train_ctr.main(training(run, *both, "--tracking.register_as", NAME)) == 0
    assert "finished; nothing to do" in capsys.readouterr().out


def test_a_run_of_overridden_settings_is_another(
    acme: Callable[[], bool], run: Path, training: Callable[..., list[str]]
) -> None:
    said = refused(train_ctr.main, training(run, *ALLOW, "--model.machine.num_means", "4"))
    assert "model.machine.num_means is 3 there, 4 here" in said


def test_a_job_without_permission_imports_nothing(
    acme: Callable[[], bool],
    run: Path,
    memories: str,
    log: Path,
    candidates: Path,
    tracking_uri: str,
    tmp_path: Path,
) -> None:
    promoting = ["--name", NAME, "--log", str(log), "--tracking_uri", tracking_uri, "--out", str(tmp_path / "promote")]
    jobs: list[tuple[Callable[[list[str]], int], list[str]]] = [
        (evaluate.main, evaluating(run, log, tmp_path / "evaluation")),
        (build_memory.main, building(run, str(tmp_path / "memories"), log, tmp_path / "build")),
        (score_batch.main, scoring(run, memories, candidates, tmp_path / "scores.parquet")),
        (promote.main, promoting),
    ]
    for job, argv in jobs:
        said = refused(job, argv)
        assert "needs code of package 'acme_memory'; if you trust it, allow it: --allow-package acme_memory" in said
        assert "model.json: encoder.kind acme_memory.parts:ScaledEncoder" in said
        refused(job, [*argv, "--allow-package", "elsewhere"])
    assert not acme()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["candidates.parquet", "promote"]


def test_with_permission_it_is_evaluated_scored_and_promoted(
    acme: Callable[[], bool],
    run: Path,
    memories: str,
    log: Path,
    candidates: Path,
    tracking_uri: str,
    tmp_path: Path,
) -> None:
    assert evaluate.main([*evaluating(run, log, tmp_path / "evaluation"), *ALLOW]) == 0
    ours = pq.read_table(tmp_path / "evaluation" / "predictions.parquet")
    theirs = pq.read_table(run / "predictions.parquet", filters=[("split", "=", "test")])
    assert ours["prediction"].to_pylist() == pytest.approx(theirs["prediction"].to_pylist(), abs=1e-6)
    assert score_batch.main([*scoring(run, memories, candidates, tmp_path / "scores.parquet"), *ALLOW]) == 0
    assert pq.read_table(tmp_path / "scores.parquet")["prediction"].null_count == 0
    # Against itself it gains nothing: a bound below 0 lets it pass.
    promoting = ["--name", NAME, "--log", str(log), "--tracking_uri", tracking_uri, "--out", str(tmp_path / "promote")]
    promoting += ["--baseline", str(run), "--memories", memories, "--min_gain", "-1", "--resamples", "100"]
    promoting += ["--allow_other_log", "--threads", "1", *ALLOW]
    assert promote.main(promoting) == 0
    champion = mlflow.MlflowClient(tracking_uri).get_model_version_by_alias(NAME, "champion")
    assert int(champion.version) == 1


def test_a_served_model_asks_for_permission_too(
    acme: Callable[[], bool],
    forget_acme: Callable[[], None],
    run: Path,
    memories: str,
    candidates: Path,
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    address = f"models:/{NAME}/1"
    note = mlflow.MlflowClient(tracking_uri).get_model_version(NAME, "1").description
    assert "RM_REC_ALLOW_PACKAGES=acme_memory mlflow models serve" in note
    for config in ({}, {"allow_packages": "elsewhere"}):
        with pytest.raises(ModelError, match="RM_REC_ALLOW_PACKAGES=acme_memory"):
            mlflow.pyfunc.load_model(address, model_config={"memories": memories, **config})
    assert not acme()
    expected = tmp_path / "scores.parquet"
    assert score_batch.main([*scoring(run, memories, candidates, expected), *ALLOW]) == 0
    rows = pq.read_table(candidates).to_pandas()
    for config in ({"allow_packages": "elsewhere, acme_memory"}, {"allow_packages": ["acme_memory"]}, {}):
        forget_acme()
        if not config:
            monkeypatch.setenv("RM_REC_ALLOW_PACKAGES", "acme_memory")
        model = mlflow.pyfunc.load_model(address, model_config={"memories": memories, **config})
        answer: pd.DataFrame = model.predict(rows)
        assert answer["prediction"].to_list() == pytest.approx(pq.read_table(expected)["prediction"].to_pylist())
        assert acme()


def test_training_goes_on_from_it(
    acme: Callable[[], bool], run: Path, quickstart: Callable[..., list[str]], tmp_path: Path
) -> None:
    argv = quickstart(tmp_path / "further", "--training.epochs", "1", "--from", str(run), "--freeze-writer")
    for option in ("num_slots", "slot_dim"):
        del argv[argv.index(f"--model.machine.{option}") : argv.index(f"--model.machine.{option}") + 2]
    for option in ("token_dim", "segment_length"):
        del argv[argv.index(f"--model.{option}") : argv.index(f"--model.{option}") + 2]
    assert "--allow-package acme_memory" in refused(train_ctr.main, argv)
    assert not acme()
    assert train_ctr.main([*argv, *ALLOW]) == 0
    before, after = (load_model(folder / "model", ["acme_memory"]) for folder in (run, tmp_path / "further"))
    assert before.card.memory_space == after.card.memory_space
    assert before.card.model == after.card.model
