"""What a store of memories promises those who read it."""

import numpy as np
import pyarrow as pa

from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.store import Journal, MemoryStore, StoreFacts
from feature_store.stores.users import bucket_of, typed
from feature_store.testing.contract import NewPlace, expect, expect_equal, expect_records, refused
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
_MANY_USERS = 2_500  # more than a store may take at once


def a_build_is_read_back_in_the_order_asked(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """What a build wrote is read back byte by byte, by `get` in the order asked, also once the store was closed."""
    place = new_place()
    with kind.create(place, FACTS) as store:
        expect_equal("facts of a new store", store.facts, FACTS)
        expect_equal("count() of a new store", store.count(), 0)
        expect_equal("journal() of a new store", store.journal(), Journal())
        expect_equal("scan() of a new store", list(store.scan()), [])
        written = fill(store)
        expect_records("scan() by the store that wrote", by_user(store.scan()), written)
    with kind(place) as store:
        expect_equal("facts", store.facts, FACTS)
        expect_equal("count()", store.count(), len(USERS))
        expect_equal("journal()", store.journal(), journal_at(1, 0))
        asked = pa.array([5, 1000, -20, None, 39, 5, 2**40])
        memories, found = store.get(asked)
        expect_equal(
            f"whom get({asked.to_pylist()}) found", found.tolist(), [True, False, True, False, True, True, False]
        )
        expect_equal(f"get({asked.to_pylist()})", memories.users.to_pylist(), [5, -20, 39, 5])
        rows = [bytes(row) for row in memories.rows()]
        expect(rows == [written[user] for user in (5, -20, 39, 5)], "get() gave users the records of others")
        expect_records("scan()", by_user(store.scan()), written)
        expect(store.bytes_on_disk() > 0, f"bytes_on_disk() gave {store.bytes_on_disk()} for {len(USERS)} users")


def a_scan_goes_bucket_by_bucket(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Each batch of `scan` is of one bucket, and buckets come one after the other, from the first to the last."""
    with kind.create(new_place(), FACTS) as store:
        fill(store)
        buckets = [np.unique(bucket_of(part.users, NUM_BUCKETS)).tolist() for part in store.scan() if len(part)]
    for found in buckets:
        expect(len(found) == 1, f"a batch of scan() has users of buckets {found}")
    order = [bucket for (bucket,) in buckets]
    expect(order == sorted(order), f"scan() went through buckets in the order {order}")
    expect_equal("the buckets of scan()", sorted(set(order)), list(range(NUM_BUCKETS)))


def nobody_asked_and_nobody_found(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """`get` of no users, of nulls or of users without a memory gives no record, of the store's own structure."""
    with kind.create(new_place(), FACTS) as store:
        fill(store)
        for asked in (pa.array([], pa.int64()), pa.nulls(2, pa.int64()), pa.array([1000, 2000])):
            memories, found = store.get(asked)
            expect_equal(f"get({asked.to_pylist()})", memories.users.to_pylist(), [])
            expect_equal("the structure of no records", memories.records.dtype, SCHEMA.record_dtype)
            expect_equal(f"whom get({asked.to_pylist()}) found", found.tolist(), [False] * len(asked))


def ids_of_another_type_are_refused(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Text is not looked for among integers, nor deleted: no user would be found."""
    with kind.create(new_place(), FACTS) as store:
        fill(store)
        with refused("get() of text where users are integers", "int64"):
            store.get(pa.array(["5"]))
        with refused("deleted() of text where users are integers", "int64"):
            store.deleted(pa.array(["5"]))
        with store.writer() as writer, refused("delete() of text where users are integers", "int64"):
            writer.delete("5")
        expect_equal("count()", store.count(), len(USERS))


def empty_and_strange_texts_are_ids(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Any text of up to 500 bytes is a user's id, and longer ones are asked for in vain rather than with an error."""
    users = pa.array(STRANGE_TEXTS)
    facts = FACTS.model_copy(update={"memory": SCHEMA.model_copy(update={"user_type": "string"})})
    with kind.create(new_place(), facts) as store:
        written = fill(store, users)
        expect_records("get()", by_user([store.get(users)[0]]), written)
        expect_records("scan()", by_user(store.scan()), written)
        unknown = pa.array(["x" * 5_000, "X"])
        expect_equal("whom get() of unknown texts found", store.get(unknown)[1].tolist(), [False, False])
        with store.writer() as writer:
            expect(not writer.delete("x" * 5_000), "delete() says that an unknown text of 5,000 bytes had a memory")
            expect(writer.delete(""), "delete() says that the user '' had no memory")
        expect_records("scan() without ''", by_user(store.scan()), {user: written[user] for user in STRANGE_TEXTS[1:]})


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


def any_layout_is_kept(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Records of any schema are kept: no state, integers of every width, scalars, large states, no window."""
    for facts in _layouts():
        place = new_place()
        users = typed(pa.array([-(2**63), -1, 0, 7, 2**63 - 1]), "int64", "users")
        users = users.cast(pa.string()) if facts.memory.user_type == "string" else users
        with kind.create(place, facts) as store:
            written = fill(store, users)
        with kind(place) as store:
            expect_equal("facts", store.facts, facts)
            expect_records(f"get() with the state {facts.memory.state}", by_user([store.get(users)[0]]), written)
            expect_records(f"scan() with the state {facts.memory.state}", by_user(store.scan()), written)


def many_users_of_one_bucket_are_kept(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """A bucket may have more users than a store reads or writes at once."""
    users = pa.array(range(_MANY_USERS))
    with kind.create(new_place(), FACTS.model_copy(update={"num_buckets": 1})) as store:
        written = fill(store, users)
        expect_equal("count()", store.count(), _MANY_USERS)
        memories, found = store.get(users)
        expect(bool(found.all()), f"get() of {_MANY_USERS} users found {int(found.sum())}")
        expect(memories.users.equals(users), "get() gave the users in another order than asked")
        expect_records("get()", by_user([memories]), written)
        expect_records("scan()", by_user(store.scan()), written)
