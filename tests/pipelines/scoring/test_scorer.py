"""Scores depend on user, candidate and memory alone: not on the order of rows, nor on what is scored at once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.errors import DataError
from feature_store.stores import MemoryStore, open_store
from pipelines.models.artifact import TrainedModel
from pipelines.scoring import scorer
from pipelines.scoring.scorer import Scorer, Scores, encode
from tests.support.nights import LABELLED, build, random_log, train, write

Score = Callable[..., Scores]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrainedModel, MemoryStore]]:
    folder = tmp_path_factory.mktemp("scorer")
    log = random_log(events=300)
    trained = train(log, folder, LABELLED)
    build(folder / "model", folder / "memories", write(log, folder / "log.parquet"), folder / "out")
    with open_store(str(folder / "memories")) as store:
        yield trained, store


@pytest.fixture
def score(made: tuple[TrainedModel, MemoryStore]) -> Score:
    """Score candidates of the log's users and of others: any number, drawn by a seed."""

    def some(table: dict[str, Any]) -> Scores:
        columns = {name: pa.chunked_array([pa.array(values)]) for name, values in table.items() if name != "time"}
        candidates = encode(
            made[0],
            columns["item"],
            np.asarray(table["time"], np.int64),
            {"position": columns["position"]},
            np.stack([np.asarray(table[name], np.float32) for name in ("price", "age")], axis=1),
        )
        return Scorer(*made).score(columns["user"], candidates)

    return some


def candidates(seed: int = 0, rows: int = 500, users: int = 20) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "user": draw.integers(95, 95 + users, rows),
        "item": draw.integers(295, 320, rows),
        "time": 3000 + draw.integers(0, 10_000, rows),
        "position": draw.integers(0, 7, rows),
        "price": draw.random(rows),
        "age": draw.integers(20, 60, rows),
    }


def test_order_and_what_is_scored_at_once_do_not_matter(
    score: Score, made: tuple[TrainedModel, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = candidates()
    whole = score(table)
    _, known = made[1].get(pa.array(table["user"]))
    assert whole.cold == (~known).sum() > 0
    assert len(np.unique(whole.probability)) > 400
    for users_at_once, candidates_at_once in ((1, 8192), (64, 1), (3, 7)):  # a user has about 25 candidates
        monkeypatch.setattr(scorer, "_USERS_PER_BATCH", users_at_once)
        monkeypatch.setattr(scorer, "_CANDIDATES_PER_BATCH", candidates_at_once)
        order = np.random.default_rng(1).permutation(500)
        found = score({name: values[order] for name, values in table.items()})
        np.testing.assert_allclose(found.probability, whole.probability[order], atol=1e-6)
        assert found.cold == whole.cold


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 4))
def test_runs_cover_every_candidate_once(counts: list[int], candidates_at_once: int, users_at_once: int) -> None:
    user = np.repeat(np.arange(len(counts)), counts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scorer, "_USERS_PER_BATCH", users_at_once)
        patched.setattr(scorer, "_CANDIDATES_PER_BATCH", candidates_at_once)
        runs = scorer._batches(user)
    assert [place for first, last in runs for place in range(first, last)] == list(range(len(user)))
    for first, last in runs:
        assert 0 < last - first <= candidates_at_once
        assert len(np.unique(user[first:last])) <= users_at_once


def test_who_and_what_is_unknown_is_scored_as_cold(score: Score) -> None:
    """A null user, one that was never seen, and no user that the store knows: all have the score of no history."""
    table = candidates(rows=3) | {name: [value] * 3 for name, value in (("item", 305), ("time", 4000), ("position", 1))}
    table |= {"price": [0.5] * 3, "age": [30] * 3, "user": [None, 10**9, -3]}
    found = score(table)
    assert found.cold == 3
    assert found.probability[0] == found.probability[1] == found.probability[2]
    assert score(table | {"user": pa.array([None] * 3, pa.int64())}).probability[0] == found.probability[0]
    known = score(table | {"user": [100, 101, 102]})
    assert known.cold == 0
    assert (np.abs(known.probability - found.probability) > 1e-4).all()


@pytest.mark.parametrize("of_type", ["int8", "uint64", "dictionary", "null"])
def test_users_of_any_type_of_integers(score: Score, of_type: str) -> None:
    table = candidates(rows=40, users=20)
    expected = score(table).probability
    users = pa.array(table["user"])
    if of_type == "null":
        assert score(table | {"user": pa.nulls(40)}).cold == 40
        return
    users = users.dictionary_encode() if of_type == "dictionary" else users.cast(of_type)
    np.testing.assert_array_equal(score(table | {"user": users}).probability, expected)


def test_a_users_own_candidates_alone_decide_its_scores(score: Score) -> None:
    table = candidates()
    whole = score(table).probability
    for place in (0, 77, 499):
        alone = score({name: values[place : place + 1] for name, values in table.items()})
        np.testing.assert_allclose(alone.probability, whole[place : place + 1], atol=1e-6)


def test_a_memory_that_would_look_ahead_is_refused(score: Score, made: tuple[TrainedModel, MemoryStore]) -> None:
    memories, _ = made[1].get(pa.array([101]))
    newest = int(memories.records["last_time"][0])
    table = candidates(rows=2) | {"user": [101, 101], "time": [newest + 1, newest + 1]}
    score(table)
    with pytest.raises(DataError) as caught:
        score(table | {"time": [newest + 1, newest]})
    assert str(caught.value) == (
        f"{made[1].address}: the memory of user 101 has an event of {newest}, no earlier than its candidate's time "
        f"{newest}, and would look ahead; score later candidates, or build memories of earlier events alone"
    )


def test_ids_of_another_type_are_refused(score: Score) -> None:
    with pytest.raises(DataError, match="its user ids are int64, the given ones are string; cast the column of users"):
        score(candidates(rows=2) | {"user": ["100", "101"]})
    with pytest.raises(DataError, match="ids are string, but the vocabulary has int64; cast the column"):
        score(candidates(rows=2) | {"item": ["300", "301"]})


def test_no_candidates_are_no_scores(score: Score) -> None:
    found = score(candidates(rows=0))
    assert (len(found.probability), found.cold) == (0, 0)
