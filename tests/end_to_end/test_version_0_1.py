"""What version 0.1 left on disk is read today, and answers as it did: models, memories, scores, predictions.

How it was made: tests/data/version_0_1/README.md. Each test works on a copy, for stores change when they are opened.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.stores import open_store
from pipelines import build_memory, evaluate, score_batch
from pipelines.models.artifact import load_model
from pipelines.models.memory_space import space_id
from tests.support.nights import assert_same, contents, journal
from tests.support.small_runs import ROOT, Ended, run_forked

KEPT = ROOT / "tests" / "data" / "version_0_1"
MODELS = ("clicks", "next_event")
DELETED_USER = 22
CLOSE = 1e-6  # what float32 leaves open where sums are taken in another order
STATES_CLOSE = 1e-5  # a state adds up numbers of up to 30, whose last bit is 2e-6
# Optimiser steps amplify that: a step of Adam does not shrink with the gradient.
CLOSE_AFTER_TRAINING = 0.01  # dropout draws other numbers than in 0.1, and embeddings have another optimizer

Train = Callable[..., Path]


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder; a Parquet store names its snapshot by a link, which stays one."""
    return Path(shutil.copytree(folder, to, symlinks=True))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(KEPT, tmp_path_factory.mktemp("kept") / "version_0_1")


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def scores(model: Path | str, memories: str, kept: Path, out: Path, *more: str) -> pa.Table:
    """Score the candidates of version 0.1."""
    argv = ["--model", str(model), "--memories", memories, "--candidates", str(kept / "candidates.parquet")]
    assert score_batch.main([*argv, "--out", str(out), "--threads", "1", *more]) == 0
    return pq.read_table(out)


def assert_close(found: pa.Table, expected: pa.Table) -> None:
    """Compare predictions within a tolerance, and every other column exactly."""
    assert found.column_names == expected.column_names
    assert found.drop_columns(["prediction"]).equals(expected.drop_columns(["prediction"]))
    ours, theirs = (table["prediction"].to_numpy() for table in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)
    assert np.ptp(theirs) > 0.1


def test_a_model_is_read_and_names_the_same_memory_space(kept: Path, name: str) -> None:
    said = json.loads((kept / name / "model" / "model.json").read_text())
    trained = load_model(kept / name / "model")
    assert space_id(trained.model, trained.vocabularies) == said["memory_space"]
    with open_store(f"parquet:{kept / name / 'memories'}") as store:
        assert store.facts.space_id == said["memory_space"]


def test_a_model_predicts_the_same_of_the_log(kept: Path, name: str, tmp_path: Path) -> None:
    argv = ["--model", str(kept / name / "model"), "--data.log", str(kept / "log"), "--out", str(tmp_path)]
    assert evaluate.main([*argv, "--split", "null", "--metrics.resamples", "0"]) == 0
    found = pq.read_table(tmp_path / "predictions.parquet")
    assert_close(found, pq.read_table(kept / name / "predictions.parquet"))


@pytest.mark.parametrize("when", ["", "-after"])
def test_memories_give_the_same_scores(kept: Path, name: str, when: str, tmp_path: Path) -> None:
    found = scores(kept / name, f"parquet:{kept / name}/memories{when}", kept, tmp_path / "scores.parquet")
    assert_close(found, pq.read_table(kept / name / f"scores{when}.parquet"))


def test_memories_of_the_default_store_give_the_same_scores(kept: Path, tmp_path: Path) -> None:
    found = scores(kept / "clicks", str(kept / "clicks" / "memories-lmdb"), kept, tmp_path / "scores.parquet")
    assert_close(found, pq.read_table(kept / "clicks" / "scores-lmdb.parquet"))


def test_one_more_night_makes_the_same_memories(kept: Path, name: str, tmp_path: Path) -> None:
    store = f"parquet:{copied(kept / name / 'memories', tmp_path / 'memories')}"
    before, expected = contents(store), f"parquet:{kept / name}/memories-after"
    argv = ["--model", str(kept / name), "--memories", store, "--log", str(kept / "log"), "--threads", "1"]
    assert build_memory.main([*argv, "--out", str(tmp_path / "out")]) == 0
    # The whole log was given: two of its nights were consumed before, and are known by their content.
    assert journal(store) == journal(expected)
    assert journal(store).builds[-1].skipped_deleted > 0
    after = contents(store)
    assert_same(after, contents(expected), STATES_CLOSE)
    assert DELETED_USER not in after
    updated = [user for user in before if after[user]["num_events"] > before[user]["num_events"]]
    assert len(updated) > 3
    assert len(after) > len(before)


def test_memories_built_from_nothing_are_the_same(kept: Path, name: str, tmp_path: Path) -> None:
    store = f"parquet:{tmp_path / 'memories'}"
    argv = ["--model", str(kept / name), "--memories", store, "--num_buckets", "2", "--dtype", "float32"]
    for night in (1, 2):
        log = ["--log", str(kept / "log" / f"night-{night}.parquet"), "--out", str(tmp_path / "out"), "--threads", "1"]
        assert build_memory.main([*argv, *log]) == 0
    ours, theirs = contents(store), contents(f"parquet:{kept / name}/memories")
    ours.pop(DELETED_USER)
    assert_same(ours, theirs, STATES_CLOSE)
    assert journal(store) == journal(f"parquet:{kept / name}/memories")


@pytest.fixture(scope="module")
def train_further(kept: Path, folder: Path, tracking_uri: str) -> Train:
    """Train a model of version 0.1 for one more epoch, as version 0.1 did, and return the folder of the run."""

    def further(name: str, *more: str) -> Path:
        out = folder / "runs" / "-".join(("further", name, *(part.strip("-") for part in more)))
        small = ("--training.epochs", "1", "--training.threads", "1", "--training.batch_events", "512")
        argv = ["--from", kept / name / "model", "--data.log", kept / "log", "--rehearsal", "null", *small, *more]
        argv += ["--training.min_batches", "20", "--metrics.resamples", "0", "--tracking.uri", tracking_uri]
        ended: Ended = run_forked(folder, "pipelines.train_ctr", *argv, "--out", out)
        assert ended.returncode == 0, ended.stderr
        return out

    return further


def test_training_further_gives_the_same_losses(kept: Path, name: str, train_further: Train) -> None:
    found, expected = (
        json.loads(path.read_text()) for path in (train_further(name) / "metrics.json", kept / name / "further.json")
    )
    assert found["parameters"] == expected["parameters"]
    assert found["best_epoch"] == expected["best_epoch"] == 1
    (ours,), (theirs,) = found["epochs"], expected["epochs"]
    for figure in ("loss", "validation_auc"):
        assert ours[figure] == pytest.approx(theirs[figure], abs=CLOSE_AFTER_TRAINING)
    assert found["test"]["logloss"] == pytest.approx(expected["test"]["logloss"], abs=CLOSE_AFTER_TRAINING)


def test_training_with_a_frozen_writer_keeps_the_memory_space(kept: Path, train_further: Train) -> None:
    out = train_further("next_event", "--freeze-writer")
    before, after = load_model(kept / "next_event" / "model"), load_model(out / "model")
    assert space_id(after.model, after.vocabularies) == before.card.memory_space
    assert after.card.weights_sha256 != before.card.weights_sha256


def test_a_registered_model_answers_from_the_same_memories(kept: Path, tracking_uri: str, tmp_path: Path) -> None:
    """A version in MLflow holds the model's files under `artifacts/model`, beside the code that wrote them."""
    registered = "version-0-1"
    shutil.copytree(kept / "clicks" / "model", tmp_path / "served" / "artifacts" / "model")
    client = mlflow.MlflowClient(tracking_uri)
    run = client.create_run(client.create_experiment(registered, artifact_location=str(tmp_path / "artifacts")))
    client.log_artifacts(run.info.run_id, str(tmp_path / "served"), "model")
    client.create_registered_model(registered)
    made = client.create_model_version(registered, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(registered, "champion", made.version)
    memories, expected = f"parquet:{kept / 'clicks' / 'memories'}", pq.read_table(kept / "clicks" / "scores.parquet")
    addresses = (tmp_path / "served", f"models:/{registered}@champion", f"runs:/{run.info.run_id}/model")
    try:
        for number, address in enumerate(addresses):
            out = tmp_path / f"scores-{number}.parquet"
            assert_close(scores(address, memories, kept, out, "--tracking_uri", tracking_uri), expected)
    finally:
        mlflow.set_tracking_uri(None)
