"""Checks of what a store of memories promises about reading."""

import numpy as np
import pyarrow as pa

from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.store import Journal, MemoryStore, StoreFacts
from feature_store.stores.users import bucket_of, typed
from feature_store.testing.contract import NewLocation, expect, expect_equal, expect_error, expect_records
from feature_store.testing.sample_memories import (
    FACTS,
    NUM_BUCKETS,
    SCHEMA,
    USERS,
    by_user,
    fill,
    journal_at,
)

STRANGE_TEXTS = ("", " ", "\0", "a\0b", "a\nb", "Ünï", "😀", "x" * 500, "5", "05", "-0")
_MANY_USERS = 2_500  # more than a store reads or writes at once


def a_build_is_read_back_in_the_requested_order(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A build's records are read back unchanged, by `get` in the requested order, also after the store is closed."""
    location = new_location()
    with kind.create(location, FACTS) as store:
        expect_equal("facts of a new store", store.facts, FACTS)
        expect_equal("count() of a new store", store.count(), 0)
        expect_equal("journal() of a new store", store.journal(), Journal())
        expect_equal("read_all() of a new store", list(store.read_all()), [])
        written = fill(store)
        expect_records("read_all() of the store that wrote", by_user(store.read_all()), written)
    with kind(location) as store:
        expect_equal("facts", store.facts, FACTS)
        expect_equal("count()", store.count(), len(USERS))
        expect_equal("journal()", store.journal(), journal_at(1, 0))
        requested = pa.array([5, 1000, -20, None, 39, 5, 2**40])
        memories, has_memory = store.get(requested)
        expect_equal(
            f"has_memory of get({requested.to_pylist()})",
            has_memory.tolist(),
            [True, False, True, False, True, True, False],
        )
        expect_equal(f"get({requested.to_pylist()})", memories.users.to_pylist(), [5, -20, 39, 5])
        rows = [bytes(row) for row in memories.rows()]
        expect(rows == [written[user] for user in (5, -20, 39, 5)], "get() gave users the records of other users")
        expect_records("read_all()", by_user(store.read_all()), written)
        expect(store.bytes_on_disk() > 0, f"bytes_on_disk() gave {store.bytes_on_disk()} for {len(USERS)} users")


def read_all_goes_bucket_by_bucket(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Each batch of `read_all` is from one bucket, and buckets come in ascending order."""
    with kind.create(new_location(), FACTS) as store:
        fill(store)
        buckets = [np.unique(bucket_of(part.users, NUM_BUCKETS)).tolist() for part in store.read_all() if len(part)]
    for of_batch in buckets:
        expect(len(of_batch) == 1, f"a batch of read_all() has users of buckets {of_batch}")
    order = [bucket for (bucket,) in buckets]
    expect(order == sorted(order), f"read_all() gave buckets in the order {order}")
    expect_equal("the buckets of read_all()", sorted(set(order)), list(range(NUM_BUCKETS)))


def unknown_users_have_no_record(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """`get` of no users, of nulls or of users without a memory returns an empty array of the store's record type."""
    with kind.create(new_location(), FACTS) as store:
        fill(store)
        for requested in (pa.array([], pa.int64()), pa.nulls(2, pa.int64()), pa.array([1000, 2000])):
            memories, has_memory = store.get(requested)
            expect_equal(f"get({requested.to_pylist()})", memories.users.to_pylist(), [])
            expect_equal("the type of no records", memories.records.dtype, SCHEMA.record_dtype)
            expect_equal(f"has_memory of get({requested.to_pylist()})", has_memory.tolist(), [False] * len(requested))


def ids_of_another_type_are_refused(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Text ids raise DataError where the store's ids are integers, since no user would match."""
    with kind.create(new_location(), FACTS) as store:
        fill(store)
        with expect_error("get() of text where users are integers", "int64"):
            store.get(pa.array(["5"]))
        with expect_error("deleted() of text where users are integers", "int64"):
            store.deleted(pa.array(["5"]))
        with store.writer() as writer, expect_error("delete() of text where users are integers", "int64"):
            writer.delete("5")
        expect_equal("count()", store.count(), len(USERS))


def any_text_is_an_id(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Any text of up to 500 bytes can be a user's id; reading or deleting a longer one finds no memory and no error."""
    users = pa.array(STRANGE_TEXTS)
    facts = FACTS.model_copy(update={"memory": SCHEMA.model_copy(update={"user_type": "string"})})
    with kind.create(new_location(), facts) as store:
        written = fill(store, users)
        expect_records("get()", by_user([store.get(users)[0]]), written)
        expect_records("read_all()", by_user(store.read_all()), written)
        unknown = pa.array(["x" * 5_000, "X"])
        expect_equal("has_memory of get() of unknown texts", store.get(unknown)[1].tolist(), [False, False])
        with store.writer() as writer:
            expect(not writer.delete("x" * 5_000), "delete() says that an unknown text of 5,000 bytes had a memory")
            expect(writer.delete(""), "delete() says that the user '' had no memory")
        expect_records(
            "read_all() without ''", by_user(store.read_all()), {user: written[user] for user in STRANGE_TEXTS[1:]}
        )


def _layouts() -> list[StoreFacts]:
    plain = SCHEMA.model_dump()
    integers = {"small": "int8", "bytes": "uint8", "short": "int16", "whole": "int32", "long": "int64"}
    state = {"sum": (2,), **dict.fromkeys(integers, (3,)), "one": ()}
    schemas = [
        plain | {"state": {}, "exact": (), "window_events": 0, "features": ()},
        plain | {"state": state, "exact": ("one",), "types": integers, "dtype": "float32"},
        plain | {"state": {"large": (50, 40)}, "exact": (), "features": ("a column", "é"), "user_type": "string"},
    ]
    sizes = (1, 2, 9)
    return [
        StoreFacts(space_id=f"é {size}", memory=MemorySchema.model_validate(schema), num_buckets=size)
        for schema, size in zip(schemas, sizes, strict=True)
    ]


def any_schema_is_stored(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Records of any schema are stored: no state, integers of every width, scalars, large states, no window."""
    for facts in _layouts():
        location = new_location()
        users = typed(pa.array([-(2**63), -1, 0, 7, 2**63 - 1]), "int64", "users")
        users = users.cast(pa.string()) if facts.memory.user_type == "string" else users
        with kind.create(location, facts) as store:
            written = fill(store, users)
        with kind(location) as store:
            expect_equal("facts", store.facts, facts)
            expect_records(f"get() with the state {facts.memory.state}", by_user([store.get(users)[0]]), written)
            expect_records(f"read_all() with the state {facts.memory.state}", by_user(store.read_all()), written)


def many_users_of_one_bucket_are_stored(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A bucket may have more users than a store reads or writes at once."""
    users = pa.array(range(_MANY_USERS))
    with kind.create(new_location(), FACTS.model_copy(update={"num_buckets": 1})) as store:
        written = fill(store, users)
        expect_equal("count()", store.count(), _MANY_USERS)
        memories, has_memory = store.get(users)
        expect(bool(has_memory.all()), f"get() of {_MANY_USERS} users found {int(has_memory.sum())}")
        expect(memories.users.equals(users), "get() gave the users in another order than requested")
        expect_records("get()", by_user([memories]), written)
        expect_records("read_all()", by_user(store.read_all()), written)
