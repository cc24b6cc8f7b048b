"""What is scored from memories is what the model predicts from the log, and nothing but candidates is read."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import ImpressionFile, Impressions, NextEvent
from pipelines import build_memory, evaluate, memories, score_batch
from pipelines.errors import TrackingError
from pipelines.models.artifact import load_model, save_model
from pipelines.scoring import scorer
from tests.end_to_end.scoring.scores import (
    CONTEXT,
    MOMENT,
    PRICED,
    Scored,
    arguments,
    before,
    first_from,
    predictions,
    score,
    scored_by,
)
from tests.support.fakes import KINDS, model_config
from tests.support.nights import COLUMNS, LABELLED, build, random_log, train, write
from tests.support.small_runs import one_line, run_forked


@pytest.mark.parametrize(
    ("impressions", "machine"),
    [(NextEvent(negatives=2), "associative"), *((PRICED, kind) for kind in ["none", *KINDS])],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_scores_are_the_models_own_predictions(tmp_path: Path, impressions: Impressions, machine: str) -> None:
    """Of any machine: to float32's precision, and from states kept in float16 to what that can hold."""
    scored = scored_by(tmp_path, impressions, machine)
    assert len(scored.candidates["user_id"].unique()) > 15
    assert len(np.unique(scored.expected.round(4))) > 12
    path = write(scored.candidates, tmp_path / "candidates.parquet")
    np.testing.assert_allclose(score(scored, path, tmp_path / "scores.parquet"), scored.expected, atol=1e-5)
    half = replace(scored, memories=tmp_path / "half")
    copied = ["copy", "--memories", str(scored.memories), "--to", f"lmdb:{half.memories}", "--dtype", "float16"]
    assert memories.main(copied) == 0
    np.testing.assert_allclose(score(half, path, tmp_path / "half.parquet"), scored.expected, atol=1e-4)


def test_impressions_of_a_file_are_scored_as_predicted(tmp_path: Path) -> None:
    log = random_log(seed=3, users=20, events=300)
    events = before(MOMENT, log)
    shown = write(log.filter(pc.greater_equal(log["timestamp"], MOMENT)), tmp_path / "shown.parquet")
    asked = ImpressionFile(
        path=str(shown), column="clicked", context_features=("position",), context_dense=("price", "age")
    )
    trained = train(events, tmp_path, asked)
    early = write(events, tmp_path / "early.parquet")
    found = predictions(trained, early, tmp_path / "whole", asked)
    found = found.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    build(tmp_path / "model", tmp_path / "memories", early, tmp_path / "out", "--dtype", "float32")
    scored = Scored(tmp_path / "model", tmp_path / "memories", found, found["prediction"].to_numpy())
    path = write(found.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    np.testing.assert_allclose(score(scored, path, tmp_path / "s.parquet"), scored.expected, atol=1e-5)
    assert len(found) == 150


def test_a_trained_model_scores_as_it_evaluates(trained: Path, log: Path, tracking_uri: str, tmp_path: Path) -> None:
    """From the log to scores by the jobs alone, and by each address that a model has."""
    whole = pq.read_table(log)
    own = tmp_path / "log.parquet"
    shutil.copy(log, own)
    argv = ["--model", str(trained / "model"), "--data.log", str(own), "--split", "null", "--metrics.resamples", "0"]
    assert evaluate.main([*argv, "--out", str(tmp_path / "evaluated")]) == 0
    moment = int(np.median(whole["timestamp"].to_numpy()))
    expected = first_from(moment, pq.read_table(tmp_path / "evaluated" / "predictions.parquet"))
    carried = [name for name in whole.column_names if name not in expected.column_names]
    expected = expected.join(
        whole.select(["user_id", "item_id", "timestamp", *carried]), ["user_id", "item_id", "timestamp"]
    )
    early = write(before(moment, whole), tmp_path / "early.parquet")
    store = tmp_path / "memories"
    argv = ["--model", str(trained), "--memories", str(store), "--log", str(early), "--out", str(tmp_path / "out")]
    assert build_memory.main([*argv, "--dtype", "float32", "--num_buckets", "4"]) == 0
    own.unlink()
    early.unlink()
    shutil.rmtree(tmp_path / "out")
    candidates = write(expected.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    client = mlflow.MlflowClient(tracking_uri)
    (version,) = client.search_model_versions("name = 'to-evaluate'")
    addresses = (str(trained), str(trained / "model"), "models:/to-evaluate@candidate", f"runs:/{version.run_id}/model")
    for number, address in enumerate(addresses):
        out = tmp_path / f"scores-{number}.parquet"
        argv = ["--model", address, "--memories", str(store), "--candidates", str(candidates), "--out", str(out)]
        assert score_batch.main([*argv, "--tracking_uri", tracking_uri]) == 0
        np.testing.assert_allclose(pq.read_table(out)["prediction"], expected["prediction"], atol=1e-5)
    with pytest.raises(TrackingError, match=r"^models:/nobody/1: MLflow at sqlite:.* does not give this") as caught:
        score_batch.main(["--model", "models:/nobody/1", *argv[2:], "--tracking_uri", tracking_uri])
    assert "\n" not in str(caught.value)


def test_who_or_what_is_unknown_is_cold(labelled: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown user is one without a history: what the model says at a user's very first event."""
    log = random_log(seed=3, users=20, events=300)
    first = first_from(
        0, predictions(load_model(labelled.model), write(log, tmp_path / "log.parquet"), tmp_path, LABELLED)
    )
    first = first.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    assert set(first["history_length"].to_pylist()) == {0}
    strangers = pa.array([None if place % 2 else -1 - place for place in range(len(first))], pa.int64())
    table = first.set_column(first.column_names.index("user_id"), "user_id", strangers)
    path = write(table.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    capsys.readouterr()
    np.testing.assert_allclose(score(labelled, path, tmp_path / "s.parquet"), first["prediction"], atol=1e-5)
    assert f"{len(first)} candidates scored, {len(first)} of users without a memory" in capsys.readouterr().out
    # Items: two that nobody knows, and null, are scored, and not as if they were known.
    one = labelled.candidates.slice(0, 1)
    items = pa.array([one["item_id"][0].as_py(), 10**12, None], pa.int64())
    rows = pa.concat_tables([one] * 3)
    rows = rows.set_column(rows.column_names.index("item_id"), "item_id", items)
    found = score(labelled, write(rows, tmp_path / "items.parquet"), tmp_path / "of-items.parquet")
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_a_user_with_more_candidates_than_are_scored_at_once(
    labelled: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.concat_tables([labelled.candidates.slice(0, 1)] * 90 + [labelled.candidates])
    items = pa.array([300 + place % 17 for place in range(len(rows))])
    rows = rows.set_column(rows.column_names.index("item_id"), "item_id", items)
    path = write(rows, tmp_path / "candidates.parquet")
    expected = score(labelled, path, tmp_path / "expected.parquet")
    monkeypatch.setattr(scorer, "_CANDIDATES_PER_BATCH", 16)
    monkeypatch.setattr("pipelines.score_batch.job._ROWS_PER_PIECE", 50)
    found = score(labelled, path, tmp_path / "scores.parquet", "--part_rows", 70)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) > 30


def test_a_model_of_another_space_is_refused_and_one_with_another_head_is_not(tmp_path: Path) -> None:
    log = random_log()
    plain = train(log, tmp_path / "plain", LABELLED)
    build(tmp_path / "plain" / "model", tmp_path / "memories", write(log, tmp_path / "log.parquet"), tmp_path / "out")
    path = write(log.select(["user_id", "item_id", *CONTEXT]), tmp_path / "candidates.parquet")
    config = model_config(head={"hidden_dims": (4, 4)}, reader={"kind": "attention", "num_heads": 1})
    other = train(log, tmp_path / "other", LABELLED, config=config, seed=3)
    scored = Scored(tmp_path / "other" / "model", tmp_path / "memories", log, np.zeros(0))
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(scored, path, tmp_path / "s.parquet")))
    assert line == (
        f"error: lmdb:{scored.memories}: its memories were built in space {plain.card.memory_space}, model "
        f"{scored.model} is in {other.card.memory_space}; build its own: python -m pipelines.build_memory --model "
        f"{scored.model} --memories NEW_STORE --log LOG"
    )
    other.model.load_state_dict(plain.model.writing_weights(), strict=False)
    save_model(scored.model, other.model, other.vocabularies, COLUMNS, LABELLED)
    found = score(scored, path, tmp_path / "s.parquet")
    theirs = Scored(tmp_path / "plain" / "model", tmp_path / "memories", log, np.zeros(0))
    assert not np.allclose(found, score(theirs, path, tmp_path / "t.parquet"))


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The Parquet files that are opened."""
    opened: set[str] = set()
    whole = pq.ParquetFile

    def noted(source: Any, *arguments: Any, **named: Any) -> Any:
        opened.add(str(source))
        return whole(source, *arguments, **named)

    monkeypatch.setattr(pq, "ParquetFile", noted)
    return opened


def test_nothing_is_read_but_candidates_and_scores(labelled: Scored, tmp_path: Path, files_read: set[str]) -> None:
    path = write(labelled.candidates, tmp_path / "candidates.parquet")
    score(labelled, path, tmp_path / "s.parquet")
    assert files_read <= {
        str(path),
        str(tmp_path / "s.parquet"),
        str(tmp_path / "s.parquet.parts" / "part-000000.parquet"),
    }
