"""Folding one bucket's events: night by night as at once, on every store, and who is late, deleted or built anew."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.stores import Journal, Memories, MemoryStore, StoreFacts, bucket_of, create_store
from pipelines.building.fold import Folded, MemoryFold
from pipelines.models.artifact import TrainedModel
from pipelines.models.memory_records import memory_schema
from tests.support.fakes import KINDS, model_config
from tests.support.nights import assert_same, of_store, random_log, train

STORED = {
    "user": "user_id",
    "item": "item_id",
    "time": "timestamp",
    "feature:action": "action",
    "feature:category": "category",
}
BUCKETS = 2
Columns = list[str] | None


@dataclass(frozen=True)
class SortedLog:
    """What a prepared log is to a fold: rows of whole users, sorted by user, time and place, in buckets."""

    table: pa.Table
    num_buckets: int

    @classmethod
    def of(cls, log: pa.Table, num_buckets: int = BUCKETS) -> Any:
        table = pa.table({name: log[column] for name, column in STORED.items()})
        table = table.append_column("row", pa.array(np.arange(len(table))))
        return cls(table.sort_by([(name, "ascending") for name in ("user", "time", "row")]), num_buckets)

    def events(self, bucket: int, columns: Columns = None) -> pa.Table:
        here = bucket_of(self.table["user"].combine_chunks(), self.num_buckets) == bucket
        return self.table.filter(pa.array(here)).select(columns or self.table.column_names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model that knows ten items of the fifteen that its logs have."""
    return train(random_log(seed=9, items=10), tmp_path_factory.mktemp("trained"))


@pytest.fixture
def made(tmp_path: Path, new_store: Callable[[str, Path], str]) -> Callable[..., MemoryStore]:
    numbers = count()

    def store(kind: str, trained: TrainedModel, user_type: str = "int64", dtype: Any = "float32") -> MemoryStore:
        schema = memory_schema(trained.model.memory, trained.model.features.events, dtype, user_type)
        facts = StoreFacts(space_id=str(trained.card.memory_space), memory=schema, num_buckets=BUCKETS)
        return create_store(new_store(kind, tmp_path / f"store-{next(numbers)}"), facts)

    return store


def fold_night(
    trained: TrainedModel, store: MemoryStore, log: Any, batch_events: int = 64, whole_log: Any = None
) -> list[Folded]:
    """Fold all buckets of a log, and write what came of it."""
    fold = MemoryFold(trained, store, batch_events, whole_log)
    found = []
    with store.writer() as writer:
        for bucket, folded in fold.buckets(log):
            if folded.memories:
                writer.write(bucket, Memories.concat(folded.memories), Journal())
            found.append(folded)
        writer.finish(Journal())
    return found


def total(found: list[Folded], name: str) -> int:
    return sum(folded.counts[name] for folded in found)


@st.composite
def nights(draw: st.DrawFn) -> tuple[pa.Table, list[pa.Table]]:
    """A log in time order, cut anywhere: events of one time may lie in two nights, and a night may be empty."""
    events = draw(st.integers(1, 150))
    last = draw(st.sampled_from([0, 3, 40, 1_000_000_000]))
    text = draw(st.booleans())
    users = draw(st.sampled_from([1, 2, 7, 30]))
    log = random_log(draw(st.integers(0, 10_000)), users=users, events=events, last=last, text=text)
    cuts = sorted(draw(st.lists(st.integers(0, events), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, events], strict=True))
    return log, [log.slice(first, last - first) for first, last in bounds if last > first]


@pytest.mark.parametrize(("kind", "examples"), [("lmdb", 15), ("parquet", 10), ("redis", 8)])
def test_night_by_night_is_all_at_once(
    trained: TrainedModel, made: Callable[..., MemoryStore], kind: str, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(nights(), st.sampled_from([1, 2, 6]), st.sampled_from([1, 64, 4096]))
    def check(log_and_nights: tuple[pa.Table, list[pa.Table]], num_parts: int, batch_events: int) -> None:
        log, parts = log_and_nights
        user_type = "int64" if pa.types.is_integer(log["user_id"].type) else "string"
        with made(kind, trained, user_type) as often, made(kind, trained, user_type) as once:
            (whole,) = [fold_night(trained, once, SortedLog.of(log))]
            found = [fold_night(trained, often, SortedLog.of(part, num_parts), batch_events) for part in parts]
            assert total(whole, "events") == sum(total(night, "events") for night in found) == len(log)
            assert sum(total(night, "late") for night in found) == 0
            users = [len(part["user_id"].unique()) for part in parts]
            assert [total(night, "users") for night in found] == users
            assert_same(of_store(often), of_store(once), atol=1e-5)
            for user, record in of_store(often).items():
                times = log.filter(pc.equal(log["user_id"], user))["timestamp"]
                assert record["num_events"] == len(times)
                assert record["last_time"] == pc.max(times).as_py()

    check()


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_every_machine_folds_night_by_night(made: Callable[..., MemoryStore], tmp_path: Path, kind: str) -> None:
    log = random_log(seed=2, events=200)
    trained = train(log, tmp_path, config=model_config(machine=kind))
    with made("lmdb", trained) as often, made("lmdb", trained) as once:
        fold_night(trained, once, SortedLog.of(log))
        for start in range(0, 200, 50):
            fold_night(trained, often, SortedLog.of(log.slice(start, 50)))
        assert_same(of_store(often), of_store(once), atol=1e-5)


def test_float16_rounds_each_night_and_no_more(trained: TrainedModel, made: Callable[..., MemoryStore]) -> None:
    """A night's state is rounded once: to 11 bits, so that n nights are within n half units of the last place."""
    log = random_log(seed=3, events=400, users=6)
    parts = [log.slice(start, 100) for start in range(0, 400, 100)]
    with made("lmdb", trained, dtype="float16") as half, made("lmdb", trained) as whole:
        for part in parts:
            fold_night(trained, half, SortedLog.of(part))
        fold_night(trained, whole, SortedLog.of(log))
        theirs = of_store(whole)
        largest = max(float(np.abs(record["state.sum"]).max()) for record in theirs.values())
        bound = len(parts) * largest * 2.0**-11
        assert_same(of_store(half), theirs, atol=bound)
        with pytest.raises(AssertionError):  # so that the bound is not one that anything would meet
            assert_same(of_store(half), theirs, atol=bound / 100)


@pytest.mark.parametrize("num_parts", [1, BUCKETS, 6])
def test_late_events_are_set_aside_with_what_the_memory_held(
    trained: TrainedModel, made: Callable[..., MemoryStore], num_parts: int
) -> None:
    log = random_log(seed=4)
    first, second = log.slice(0, 120), log.slice(120)
    newest = {row["user_id"]: row["timestamp"] for row in first.to_pylist()}
    late = pa.concat_tables([first.slice(0, 20), first.filter(pc.is_in(first["timestamp"], pa.array(newest.values())))])
    expected = [row for row in late.to_pylist() if row["timestamp"] < newest[row["user_id"]]]
    assert 0 < len(expected) < len(late)  # an event of the time that the memory holds is not late
    with made("lmdb", trained) as store, made("lmdb", trained) as without:
        for one in (store, without):
            fold_night(trained, one, SortedLog.of(first))
        found = fold_night(trained, store, SortedLog.of(pa.concat_tables([late, second]), num_parts))
        same = [row for row in late.to_pylist() if row not in expected]
        again = pa.Table.from_pylist(same, late.schema)
        fold_night(trained, without, SortedLog.of(pa.concat_tables([again, second]), num_parts))
        assert_same(of_store(store), of_store(without), atol=0)
    aside = pa.concat_tables([table for folded in found for table in folded.late]).to_pylist()
    assert total(found, "late") == len(aside) == len(expected)
    assert total(found, "events") == len(second) + len(same)
    rows = [(row["user"], row["time"], row["item"], row["feature:action"], row["memory_time"]) for row in aside]
    wanted = [
        (row["user_id"], row["timestamp"], row["item_id"], row["action"], newest[row["user_id"]]) for row in expected
    ]
    assert sorted(rows) == sorted(wanted)


def test_a_bucket_of_late_events_alone_writes_nothing(trained: TrainedModel, made: Callable[..., MemoryStore]) -> None:
    log = random_log(users=1, events=20)
    with made("lmdb", trained) as store:
        fold_night(trained, store, SortedLog.of(log))
        found = fold_night(trained, store, SortedLog.of(log.slice(0, 10)))
        assert all(not folded.memories for folded in found)
        assert (total(found, "late"), total(found, "events"), total(found, "users")) == (10, 0, 0)
        assert [folded.first_time for folded in found] == [None, None]


@pytest.mark.parametrize("num_parts", [1, 6])
def test_users_with_late_events_are_built_anew(
    trained: TrainedModel, made: Callable[..., MemoryStore], num_parts: int
) -> None:
    log = random_log(seed=5)
    is_late = pa.array([place < 90 and place % 9 == 0 for place in range(len(log))])
    late, rest = log.filter(is_late), log.filter(pc.invert(is_late))
    first, second = rest.slice(0, 100), pa.concat_tables([late, rest.slice(100)])
    newest = {row["user_id"]: row["timestamp"] for row in first.to_pylist()}
    touched = {row["user_id"] for row in late.to_pylist() if row["timestamp"] < newest.get(row["user_id"], 0)}
    asked: list[int] = []

    def whole() -> Any:
        asked.append(1)
        return SortedLog.of(log, num_parts)

    with made("lmdb", trained) as store, made("lmdb", trained) as full:
        assert total(fold_night(trained, store, SortedLog.of(first), whole_log=whole), "rebuilt_users") == 0
        assert not asked  # the whole log is not sorted where nothing is late
        found = fold_night(trained, store, SortedLog.of(second), whole_log=whole)
        fold_night(trained, full, SortedLog.of(log))
        assert_same(of_store(store), of_store(full), atol=1e-5)
    assert total(found, "rebuilt_users") == len(touched) > 2
    assert not any(folded.late for folded in found)
    assert total(found, "users") == len(set(second["user_id"].to_pylist()))


def test_deleted_users_are_skipped_and_counted(trained: TrainedModel, made: Callable[..., MemoryStore]) -> None:
    log = random_log(seed=6)
    first, second = log.slice(0, 120), log.slice(120)
    gone, never = first["user_id"][0].as_py(), second["user_id"][-1].as_py()
    with made("lmdb", trained) as store:
        fold_night(trained, store, SortedLog.of(first))
        with store.writer() as writer:
            assert writer.delete(gone)
            writer.delete(never)
        again = pa.concat_tables([log.slice(0, 30), second])
        found = fold_night(trained, store, SortedLog.of(again), whole_log=lambda: SortedLog.of(log))
        users = again["user_id"].to_pylist()
        assert total(found, "skipped_deleted") == users.count(gone) + users.count(never) > 0
        assert total(found, "events") + total(found, "skipped_deleted") == len(again)
        assert not {gone, never} & of_store(store).keys()


def test_a_fold_says_when_its_events_were(trained: TrainedModel, made: Callable[..., MemoryStore]) -> None:
    log = random_log(seed=7, events=50)
    with made("lmdb", trained) as store:
        found = fold_night(trained, store, SortedLog.of(log, 6))
        assert min(folded.first_time for folded in found if folded.first_time is not None) == 0
        assert max(folded.last_time for folded in found if folded.last_time is not None) == 490
