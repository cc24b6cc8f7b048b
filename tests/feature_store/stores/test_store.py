"""One contract suite over all stores: what is written is read, by one writer, and a deleted user stays deleted."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.errors import DataError, LockedError
from feature_store.stores import Journal, StoreFacts, create_store, open_store
from feature_store.stores.addresses import find_kind
from feature_store.stores.store import parse
from feature_store.stores.users import typed
from feature_store.testing import STORE_CHECKS, StoreCheck
from feature_store.testing.sample_memories import (
    FACTS,
    SCHEMA,
    USERS,
    by_user,
    fill,
    in_bucket,
    journal_at,
    memories_of,
)
from tests.feature_store.stores.child_processes import in_child
from tests.feature_store.stores.drawn_schemas import schemas

Place = Callable[..., str]


@pytest.mark.parametrize("check", STORE_CHECKS, ids=str)
def test_every_store_keeps_the_contract(check: StoreCheck, kind: str, place: Place) -> None:
    stores = [find_kind(place(kind, uuid.uuid4().hex), new=True) for _ in range(10)]
    places = iter([place for _, place in stores])
    check(stores[0][0], lambda: next(places))


def test_a_store_is_opened_by_the_address_that_it_shows(address: str) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store)
        shown = store.address
    with open_store(shown) as store:
        assert store.address == shown
        assert by_user(store.read_all()) == written


def test_a_store_takes_what_its_records_take(address: str) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        assert len(USERS) * SCHEMA.bytes_per_user < store.bytes_on_disk() < 10_000_000


def test_what_is_refused_is_refused_in_these_words(address: str) -> None:
    here = in_bucket(USERS, 0)
    good = memories_of(here)
    double = memories_of(here.take(pa.array([0, 1, 0])))
    other = memories_of(here, schema=SCHEMA.of_dtype("float32"))
    with pytest.raises(DataError, match=r"no memories here.*build them first"):
        open_store(address)
    with create_store(address, FACTS) as store:
        with pytest.raises(DataError, match="its user ids are int64, the given ones are string"):
            store.get(pa.array(["5"]))
        with store.writer() as writer:
            for bucket, memories, said in [
                (0, double, "a user is written twice at once; keep the last memory of each"),
                (0, other, "records are .* expected "),
                (1, good, f"user {here[0].as_py()} does not belong to bucket 1"),
                (4, good, "there is no bucket 4; expected 0 to 3"),
            ]:
                with pytest.raises(DataError, match=said):
                    writer.write(bucket, memories, journal_at(0, 1))
            with pytest.raises(DataError, match="build build-1 is still under way in the given journal"):
                writer.finish(journal_at(1, 1))
            writer.delete(here[0].as_py())
            with pytest.raises(DataError, match=f"user {here[0].as_py()} was deleted; leave"):
                writer.write(0, good, journal_at(0, 1))
        with pytest.raises(DataError, match="this writer is closed"):
            writer.write(0, good, journal_at(0, 1))
    with pytest.raises(DataError, match="here already"):
        create_store(address, FACTS)


def test_a_second_writer_is_refused_in_another_process_too(address: str) -> None:
    def write_too() -> None:
        with open_store(address) as store, store.writer():
            pass

    with create_store(address, FACTS) as store, store.writer():
        with pytest.raises(LockedError, match="another process is writing to it"), store.writer():
            pass
        if not address.startswith("lmdb:"):  # an open LMDB file must not be taken into a child
            assert "another process is writing to it" in in_child(write_too)


def test_what_get_reads_while_a_build_is_under_way(kind: str, address: str) -> None:
    with create_store(address, FACTS) as store:
        before = fill(store)
        users = in_bucket(USERS, 1)
        with store.writer() as writer:
            after = memories_of(users, seed=9)
            writer.write(1, after, journal_at(1, 1))
        expected = before if kind == "parquet" else before | by_user([after])  # snapshots are swapped at the end
        assert by_user(store.read_all()) == expected
        assert by_user([store.get(USERS)[0]]) == expected
        with store.writer() as writer:
            writer.finish(journal_at(2, 0))
        assert by_user(store.read_all()) == before | by_user([after])


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
        assert by_user([memories]) == written == by_user(store.read_all())
        assert memories.users.equals(users)


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
