"""One contract suite over all stores: what is written is read, by one writer, and a deleted user stays deleted."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_samples import (
    FACTS,
    NUM_BUCKETS,
    SCHEMA,
    USERS,
    by_user,
    fill,
    in_bucket,
    in_child,
    journal_at,
    memories_of,
)
from test_record import schemas

from feature_store.errors import DataError
from feature_store.memories import Journal, Memories, StoreFacts, bucket_of, create_store, open_store
from feature_store.memories.store import parse
from feature_store.memories.users import tombstones_of, typed

Place = Callable[..., str]


def test_a_build_is_read_back_in_the_order_asked(address: str) -> None:
    with create_store(address, FACTS) as store:
        assert store.count() == 0
        assert store.journal() == Journal()
        assert list(store.scan()) == []
        written = fill(store)
    with open_store(address) as store:
        assert store.facts == FACTS
        assert store.count() == len(USERS)
        assert store.journal() == journal_at(1, 0)
        asked = pa.array([5, 1000, -20, None, 39, 5, 2**40])
        memories, found = store.get(asked)
        assert found.tolist() == [True, False, True, False, True, True, False]
        assert memories.users.to_pylist() == [5, -20, 39, 5]
        assert [bytes(row) for row in memories.rows()] == [written[user] for user in memories.users.to_pylist()]
        assert by_user(store.scan()) == written
        assert 0 < len(USERS) * SCHEMA.bytes_per_user < store.bytes_on_disk() < 10_000_000


def test_a_scan_goes_bucket_by_bucket(address: str) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        buckets = [np.unique(bucket_of(part.users, NUM_BUCKETS)) for part in store.scan()]
    assert all(len(of_part) == 1 for of_part in buckets)
    assert np.concatenate(buckets).tolist() == [0, 1, 2, 3]


def test_nobody_asked_and_nobody_found(address: str) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        for asked in (pa.array([], pa.int64()), pa.nulls(2, pa.int64()), pa.array([1000, 2000])):
            memories, found = store.get(asked)
            assert len(memories) == 0
            assert memories.records.dtype == SCHEMA.record_dtype
            assert found.tolist() == [False] * len(asked)


def test_ids_of_another_type_are_refused(address: str) -> None:
    with create_store(address, FACTS) as store, pytest.raises(DataError, match="its users are int64, these are string"):
        store.get(pa.array(["5"]))


def test_a_second_build_replaces_and_adds(address: str) -> None:
    later = pa.array(range(30, 60))
    with create_store(address, FACTS) as store:
        written = fill(store)
        newer = fill(store, later, seed=50, build=1)
        assert written[35] != newer[35]
        assert by_user(store.scan()) == written | newer
        assert store.count() == 80
        assert store.journal() == journal_at(2, 0)


def test_a_bucket_may_be_written_more_than_once_in_a_build(address: str) -> None:
    users = in_bucket(USERS, 2)
    parts = [memories_of(users.slice(start, 4), seed=start) for start in range(0, len(users), 4)]
    with create_store(address, FACTS) as store:
        with store.writer() as writer:
            for step, part in enumerate(parts):
                writer.write(2, part, journal_at(0, step + 1))
                assert store.journal() == journal_at(0, step + 1)
            writer.write(2, parts[0], journal_at(0, 9))  # a step run again changes nothing
            writer.write(1, Memories.none(SCHEMA), journal_at(0, 10))  # nor does one without users
            assert store.journal() == journal_at(0, 10)
            writer.finish(journal_at(1, 0))
        assert by_user(store.scan()) == by_user(parts)
        assert store.count() == len(users)


def test_what_get_reads_while_a_build_is_under_way(kind: str, address: str) -> None:
    with create_store(address, FACTS) as store:
        before = fill(store)
        users = in_bucket(USERS, 1)
        with store.writer() as writer:
            after = memories_of(users, seed=9)
            writer.write(1, after, journal_at(1, 1))
        expected = before if kind == "parquet" else before | by_user([after])  # snapshots are swapped at the end
        assert by_user(store.scan()) == expected
        assert by_user([store.get(USERS)[0]]) == expected
        with store.writer() as writer:
            writer.finish(journal_at(2, 0))
        assert by_user(store.scan()) == before | by_user([after])


STRINGS = st.text(max_size=60)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize("kind", ["lmdb", "parquet", "redis"])
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas(), num_buckets=st.integers(1, 9), data=st.data())
def test_any_schema_and_any_ids(kind: str, place: Place, schema: Any, num_buckets: int, data: st.DataObject) -> None:
    ids = st.lists(STRINGS if schema.user_type == "string" else INTEGERS, unique=True, max_size=12)
    users = typed(pa.array(data.draw(ids)), schema.user_type, "here")
    name = uuid.uuid4().hex  # a drawn one would come twice when an example is run again
    facts = StoreFacts(space_id="é", memory=schema, num_buckets=num_buckets)
    with create_store(place(kind, name), facts) as store:
        written = fill(store, users)
    with open_store(place(kind, name)) as store:
        assert store.facts == facts
        memories, found = store.get(users)
        assert found.all()
        assert by_user([memories]) == written == by_user(store.scan())
        assert memories.users.equals(users)


def test_empty_and_strange_texts_are_ids(address: str) -> None:
    users = pa.array(["", " ", "\0", "a\0b", "a\nb", "Ünï", "😀", "x" * 500, "5", "05", "-0"])
    facts = FACTS.model_copy(update={"memory": SCHEMA.model_copy(update={"user_type": "string"})})
    with create_store(address, facts) as store:
        written = fill(store, users)
        assert by_user([store.get(users)[0]]) == written == by_user(store.scan())
        assert store.get(pa.array(["x" * 5_000, "X"]))[1].tolist() == [False, False]
        with store.writer() as writer:
            assert not writer.delete("x" * 5_000)
            assert writer.delete("")


def test_writes_that_cannot_be_right_are_refused_and_change_nothing(address: str) -> None:
    here, there = in_bucket(USERS, 0), in_bucket(USERS, 1)
    good = memories_of(here)
    wrong = good.records.copy()
    wrong["num_events"][1] += 1
    double = memories_of(here.take(pa.array([0, 1, 0])))
    other = memories_of(here, schema=SCHEMA.of_dtype("float32"))
    text = Memories(here.cast(pa.string()), good.records)
    cases = [
        (0, memories_of(there), f"user {there[0].as_py()} does not lie in bucket 0"),
        (0, double, "a user twice"),
        (0, other, "expected"),
        (0, text, "its users are int64"),
        (0, Memories(good.users, wrong), f"user {here[1].as_py()} is damaged"),
        (4, good, "bucket 4 of 4"),
        (-1, good, "bucket -1 of 4"),
    ]
    with create_store(address, FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            for bucket, memories, said in cases:
                with pytest.raises(DataError, match=said):
                    writer.write(bucket, memories, journal_at(1, 1))
            with pytest.raises(DataError, match="build-1 is still under way"):
                writer.finish(journal_at(1, 1))
        assert store.journal() == journal_at(1, 0)
        assert by_user(store.scan()) == written
        for late in (
            lambda: writer.write(0, good, journal_at(1, 1)),
            lambda: writer.finish(journal_at(2, 0)),
            lambda: writer.delete(5),
            lambda: writer.bury([b"x" * 16]),
        ):
            with pytest.raises(DataError, match="this writer was closed"):
                late()


def test_a_second_writer_is_refused_at_once(address: str) -> None:
    def write_too() -> None:
        with open_store(address) as store, store.writer():
            pass

    with create_store(address, FACTS) as store:
        with store.writer() as writer:
            with pytest.raises(DataError, match="another writer is at work"), store.writer():
                pass
            if not address.startswith("lmdb:"):  # an open LMDB file must not be taken into a child
                assert "another writer is at work" in in_child(write_too)
            writer.write(0, memories_of(in_bucket(USERS, 0)), journal_at(0, 1))  # the first goes on
        with pytest.raises(RuntimeError), store.writer():
            raise RuntimeError  # whatever ends a writer lets the next one in
        with store.writer():
            pass


def test_a_deleted_user_is_gone_and_stays_so(address: str) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            assert writer.delete(5)
            assert not writer.delete(5)
            assert not writer.delete(1000)  # one who never was must not come either
        del written[5]
    with open_store(address) as store:
        assert by_user(store.scan()) == written
        assert store.count() == len(written)
        assert store.get(pa.array([5, 6]))[1].tolist() == [False, True]
        assert store.deleted(pa.array([5, 6, 1000, None])).tolist() == [True, False, True, False]
        assert store.tombstones() == frozenset(tombstones_of(pa.array([5, 1000])))
        assert store.journal() == journal_at(1, 0)
        users = in_bucket(USERS, int(bucket_of(pa.array([5]), NUM_BUCKETS)[0]))
        with store.writer() as writer, pytest.raises(DataError, match="user 5 was deleted and stays so"):
            writer.write(int(bucket_of(users, NUM_BUCKETS)[0]), memories_of(users), journal_at(1, 1))
        assert by_user(store.scan()) == written


def test_a_user_is_deleted_from_a_build_under_way(address: str) -> None:
    bucket = int(bucket_of(pa.array([5]), NUM_BUCKETS)[0])
    with create_store(address, FACTS) as store:
        fill(store, pa.array([5, 6]))
        with store.writer() as writer:
            users = in_bucket(USERS, bucket)
            writer.write(bucket, memories_of(users), journal_at(1, 1))
            assert writer.delete(5)
            assert writer.delete(users[0].as_py())  # whom only the build under way has
            assert store.journal() == journal_at(1, 1)
            writer.finish(journal_at(2, 0))
        expected = {6, *users.to_pylist()} - {5, users[0].as_py()}
        assert set(by_user(store.scan())) == expected
        assert store.count() == len(expected)


def test_tombstones_of_another_store_are_kept(address: str) -> None:
    with create_store(address, FACTS) as store:
        with store.writer() as writer:
            writer.bury(tombstones_of(pa.array([5, 6])))
            writer.bury([])
        assert store.deleted(pa.array([5, 6, 7])).tolist() == [True, True, False]
        assert len(store.tombstones()) == 2


def test_a_store_is_made_once(address: str) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store)
    with pytest.raises(DataError, match="here already"):
        create_store(address, FACTS)
    with open_store(address) as store:
        assert by_user(store.scan()) == written


def test_where_nothing_is_nothing_is_opened(address: str) -> None:
    with pytest.raises(DataError, match=r"no memories here.*build them first"):
        open_store(address)


def test_a_store_says_where_it_lies(address: str) -> None:
    with create_store(address, FACTS) as store:
        shown, kind = store.address, type(store).__name__
        assert repr(store) == f"{kind}({shown!r})"
    with open_store(shown) as store:
        assert store.address == shown


def test_facts_at_rest_are_checked(tmp_path: Path) -> None:
    text = FACTS.model_dump_json()
    assert parse(StoreFacts, text, "here") == FACTS
    for damage in (text[:-5], text.replace("space_id", "spice_id"), "", b"\xff"):
        with pytest.raises(DataError, match=r"^here: damaged, or written by another version \([^\n]+\); restore"):
            parse(StoreFacts, damage, "here")
    assert json.loads(Journal().model_dump_json()) == {"builds": [], "under_way": None}


@pytest.mark.parametrize("num_buckets", [0, 65_537])
def test_the_number_of_buckets_has_bounds(num_buckets: int) -> None:
    with pytest.raises(ValueError, match="num_buckets"):
        StoreFacts(space_id="x", memory=SCHEMA, num_buckets=num_buckets)
