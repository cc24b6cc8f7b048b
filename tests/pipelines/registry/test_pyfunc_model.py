"""The model that MLflow serves: what it answers, which memories it reads, and what it says to requests it refuses."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from feature_store.errors import DataError
from feature_store.stores import Journal
from pipelines import score_batch
from pipelines.errors import ModelError, SettingsError
from tests.pipelines.registry.served import EVENTS, USERS, Served, small_log, train

LATER = 10 * EVENTS + 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return train(tmp_path_factory.mktemp("served")).write()


@pytest.fixture(scope="module")
def memories(served: Served) -> str:
    return served.build(served.folder / "memories")


@pytest.fixture(scope="module")
def model(served: Served, memories: str) -> PyFuncModel:
    return load(served, memories=memories)


def load(served: Served, **config: object) -> PyFuncModel:
    return mlflow.pyfunc.load_model(str(served.served), model_config=config)


@pytest.fixture
def rows() -> pd.DataFrame:
    return requests(40)


def requests(count: int, seed: int = 0) -> pd.DataFrame:
    """Rows of users and items known and not, with times after all events, in no order."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "uid": draw.integers(100, 100 + USERS + 2, count),
            "sku": draw.integers(1, 15, count),
            "ts": LATER + draw.integers(0, 1000, count),
            "device": np.array(["phone", "desk", "fridge"])[draw.integers(0, 3, count)],
            "slot": draw.integers(0, 5, count),
            "price": draw.random(count),
        },
        index=draw.permutation(count),
    )


def found(model: PyFuncModel, rows: pd.DataFrame) -> np.ndarray:
    answer = model.predict(rows)
    assert list(answer.columns) == ["prediction"]
    assert answer.index.equals(rows.index)
    return answer["prediction"].to_numpy()


def test_it_answers_as_score_batch_does(model: PyFuncModel, served: Served, rows: pd.DataFrame, tmp_path: Path) -> None:
    copy = served.build(tmp_path / "copy")  # this process has the other open, which LMDB allows once
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    argv = ["--model", served.artifact, "--memories", copy, "--candidates", tmp_path / "rows.parquet"]
    assert score_batch.main([*map(str, argv), "--out", str(tmp_path / "scores.parquet")]) == 0
    scores = pq.read_table(tmp_path / "scores.parquet")["prediction"].to_numpy()
    np.testing.assert_allclose(found(model, rows), scores, rtol=0, atol=1e-6)
    assert len(set(scores)) > 30


def test_each_row_is_answered_by_itself(model: PyFuncModel, rows: pd.DataFrame) -> None:
    alone = [found(model, rows.iloc[[place]])[0] for place in range(5)]
    np.testing.assert_allclose(found(model, rows)[:5], alone, rtol=0, atol=1e-6)
    mixed = rows.sample(frac=1, random_state=1)[["price", "slot", "sku", "device", "ts", "uid"]]
    np.testing.assert_allclose(found(model, mixed.loc[rows.index]), found(model, rows), rtol=0, atol=1e-6)


def test_columns_are_read_by_their_roles(model: PyFuncModel, rows: pd.DataFrame) -> None:
    before = found(model, rows)
    others = {
        "uid": rows["uid"].to_numpy()[::-1],
        "sku": 3,
        "ts": LATER + 10**7,
        "device": "desk",
        "slot": 1,
        "price": 9.0,
    }
    for name, value in others.items():
        assert np.abs(found(model, rows.assign(**{name: value})) - before).max() > 1e-4, name
    assert np.array_equal(found(model, rows.assign(clicked=1, shop=2)), before)  # not asked of a request


def test_unknown_users_and_items_are_cold(model: PyFuncModel, rows: pd.DataFrame) -> None:
    strangers = found(model, rows.assign(uid=np.arange(900, 900 + len(rows))))
    assert np.array_equal(strangers, found(model, rows.assign(uid=901)))
    assert np.abs(strangers - found(model, rows.assign(uid=100))).max() > 1e-3
    unknown = found(model, rows.assign(sku=np.arange(5000, 5000 + len(rows))))
    assert ((unknown > 0) & (unknown < 1)).all()
    assert np.isfinite(found(model, rows.iloc[:0])).all()


def test_the_example_is_answered_and_names_nobody(model: PyFuncModel) -> None:
    example = model.input_example
    assert list(example.columns) == ["uid", "sku", "device", "slot", "price"]
    assert not set(example["uid"]) & set(range(100, 100 + USERS))
    assert len(found(model, example)) == 2


@pytest.mark.parametrize("named", ["config", "environment", "both"])
def test_memories_are_named_in_two_ways(
    served: Served, memories: str, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    expected = found(load(served, memories=memories), rows)
    if named != "config":
        monkeypatch.setenv("RM_REC_MEMORIES", memories if named == "environment" else "/nowhere")
    one = load(served) if named == "environment" else load(served, memories=memories)
    assert np.array_equal(found(one, rows), expected)


def test_without_memories_both_ways_are_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RM_REC_MEMORIES", raising=False)
    with pytest.raises(SettingsError) as caught:
        load(served)
    assert "model_config={'memories': ADDRESS}" in str(caught.value)
    assert "RM_REC_MEMORIES=ADDRESS" in str(caught.value)
    with pytest.raises(DataError, match="no memories here"):
        load(served, memories="/nowhere/at/all")


def test_memories_of_another_space_are_refused(served: Served, tmp_path: Path) -> None:
    other = train(tmp_path / "other", seed=1)
    with pytest.raises(ModelError) as caught:
        load(served, memories=other.build(tmp_path / "memories"))
    for space in (served.trained.card.memory_space, other.trained.card.memory_space):
        assert space is not None
        assert space in str(caught.value)


def test_a_model_without_memories_is_refused(tmp_path: Path, memories: str) -> None:
    whole = train(tmp_path, machine="none", window={"kind": "whole_history"}).write()
    with pytest.raises(ModelError, match="its window is the whole history"):
        load(whole, memories=memories)


def test_rows_without_a_time_are_of_the_moment_after_the_newest_event(
    model: PyFuncModel, served: Served, memories: str, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = 10 * (EVENTS - 1)
    timeless = rows.drop(columns="ts")
    assert np.array_equal(found(model, timeless), found(model, rows.assign(ts=newest + 1)))
    far = found(model, rows.assign(ts=10**6))
    assert np.abs(found(model, timeless) - far).max() > 1e-4
    assert np.array_equal(found(load(served, memories=memories, at=10**6), timeless), far)
    monkeypatch.setenv("RM_REC_AT", str(10**6))
    assert np.array_equal(found(load(served, memories=memories), timeless), far)
    assert np.array_equal(found(load(served, memories=memories, at=newest + 1), timeless), found(model, timeless))
    with pytest.raises(SettingsError, match="RM_REC_AT, is 'soon'; expected a whole number"):
        load(served, memories=memories, at="soon")
    with pytest.raises(MlflowException, match="would look ahead"):
        load(served, memories=memories, at=newest).predict(timeless)


def null(name: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.assign(**{name: [None, *rows[name][1:]]})


MALFORMED: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "no user": (lambda rows: rows.drop(columns="uid"), "Model is missing inputs ['uid']"),
    "no context": (lambda rows: rows.drop(columns=["price", "slot"]), "Model is missing inputs ['slot', 'price']"),
    "item of text": (lambda rows: rows.assign(sku="x"), "column sku. Can not safely convert"),
    "category of numbers": (lambda rows: rows.assign(device=1.5), "column device. Can not safely convert"),
    "price of text": (lambda rows: rows.assign(price="cheap"), "column price. Can not safely convert"),
    "null time": (null("ts"), "column ts. Can not safely convert"),
    "null user": (null("uid"), "column uid. Can not safely convert"),
    "time of text": (lambda rows: rows.assign(ts="soon"), "column ts. Can not safely convert"),
}
REFUSED: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "null price": (null("price"), "the request: column 'price', row 0 (from 0) is not a finite number"),
    "endless price": (lambda rows: rows.assign(price=np.inf), "the request: column 'price', row 0 (from 0) is not a"),
    "early": (lambda rows: rows.assign(uid=100, ts=7), "memory of user 100 has an event of 1520, no earlier than its"),
}


@pytest.mark.parametrize("case", [*MALFORMED, *REFUSED])
def test_a_request_that_cannot_be_read_says_which_column(model: PyFuncModel, rows: pd.DataFrame, case: str) -> None:
    broken, said = (MALFORMED | REFUSED)[case]
    with pytest.raises(MlflowException) as caught:
        model.predict(broken(rows))
    assert said in str(caught.value)
    assert caught.value.get_http_status_code() == 400
    if case in REFUSED:
        caught.value.message = "Failed to predict data\n 'a whole table'"  # as MLflow's server does
        answer = json.loads(caught.value.serialize_as_json())
        assert answer["message"] == str(caught.value)
        assert "\n" not in answer["message"]
        assert "stack_trace" not in answer


def test_it_answers_from_many_threads(model: PyFuncModel) -> None:
    asked = [requests(30, seed) for seed in range(12)]
    alone = [found(model, rows) for rows in asked]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda rows: found(model, rows), asked))
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["parquet", "redis"])  # LMDB, where another process must build, over HTTP
def test_a_night_that_is_built_while_it_serves_is_read(
    served: Served, rows: pd.DataFrame, tmp_path: Path, new_store: Callable[[str, Path], str], kind: str
) -> None:
    store = served.build(new_store(kind, tmp_path / "memories"))
    model = load(served, memories=store)
    rows = rows.assign(ts=10**6)
    before, strangers = found(model, rows), found(model, rows.assign(uid=901))
    night = small_log(start=LATER)
    night = night.set_column(0, "uid", [np.where(np.arange(EVENTS) % 2, 901, 100)])
    pq.write_table(night, tmp_path / "night.parquet")
    served.build(store, tmp_path / "night.parquet")
    after = found(model, rows)
    changed = np.abs(after - before) > 1e-6
    assert changed[rows["uid"] == 100].all()
    assert not changed[rows["uid"] != 100].any()
    assert np.abs(found(model, rows.assign(uid=901)) - strangers).max() > 1e-4
    timeless = rows.drop(columns="ts")
    newest = LATER + 10 * (EVENTS - 1)
    assert np.array_equal(found(model, timeless), found(model, rows.assign(ts=newest + 1)))


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_another_store_in_the_place_of_the_one_that_is_read(
    served: Served, rows: pd.DataFrame, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "memories"
    model = load(served, memories=served.build(f"{kind}:{place}"))
    before = found(model, rows)
    other = train(tmp_path / "other", seed=1)
    other.build(f"{kind}:{tmp_path / 'others'}")
    shutil.rmtree(place)
    (tmp_path / "others").rename(place)
    with pytest.raises(MlflowException, match=str(other.trained.card.memory_space)):
        model.predict(rows)
    shutil.rmtree(place)
    with pytest.raises(MlflowException, match="no memories here"):
        model.predict(rows)
    served.build(f"{kind}:{place}")
    assert np.array_equal(found(model, rows), before)


def test_a_build_at_work_moves_the_moment_of_rows_without_a_time(
    model: PyFuncModel, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = Journal.after_newest
    moments = iter([5, None, None])
    monkeypatch.setattr(Journal, "after_newest", lambda journal: next(moments) or newest(journal))
    timeless = rows.drop(columns="ts")
    assert np.array_equal(found(model, timeless), found(model, rows.assign(ts=10 * (EVENTS - 1) + 1)))
    monkeypatch.setattr(Journal, "after_newest", lambda journal: 5)
    with pytest.raises(MlflowException, match="would look ahead"):
        model.predict(timeless)


def test_logs_of_text_and_timestamps(tmp_path: Path) -> None:
    served = train(tmp_path, small_log(text=True, moments=True)).write()
    model = load(served, memories=served.build(tmp_path / "memories"))
    moment = pd.Timestamp("2030-01-01")  # MLflow takes no time zones: UTC
    rows = pd.DataFrame(
        {"uid": ["u100", "u101", "new"], "sku": ["i1", "i2", None], "device": None, "slot": 1, "price": 0.5}
    )
    at = found(model, rows.assign(ts=moment))
    with pytest.raises(MlflowException, match="timezone-naive"):
        model.predict(rows.assign(ts=moment.tz_localize("UTC")))
    micros = int(moment.value // 1000)
    assert np.array_equal(found(load(served, memories=str(tmp_path / "memories"), at=micros), rows), at)
    types = {column.name: str(column.type) for column in model.metadata.get_input_schema()}
    assert types == {
        "uid": "DataType.string",
        "sku": "DataType.string",
        "device": "DataType.string",
        "slot": "DataType.long",
        "price": "DataType.double",
        "ts": "DataType.datetime",
    }
    with pytest.raises(MlflowException, match=r"column .ts., row 1 .*the time is null"):
        model.predict(rows.assign(ts=[moment, pd.NaT, moment]))
