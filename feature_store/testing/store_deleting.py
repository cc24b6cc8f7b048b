"""Checks of what a store of memories promises about deleted users."""

import pyarrow as pa

from feature_store.stores.store import MemoryStore
from feature_store.stores.users import bucket_of, tombstones_of
from feature_store.testing.contract import NewLocation, expect, expect_equal, expect_error, expect_records
from feature_store.testing.sample_memories import (
    FACTS,
    NUM_BUCKETS,
    USERS,
    by_user,
    fill,
    in_bucket,
    journal_at,
    memories_of,
)


def a_deleted_user_stays_deleted(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A deleted user has a tombstone and no record, and a later write of that user is refused.

    The same holds for a user who never had a memory, and after the store is closed and opened again.
    """
    location = new_location()
    with kind.create(location, FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            expect(writer.delete(5), "delete(5) says that user 5 had no memory")
            expect(not writer.delete(5), "delete(5) says a second time that user 5 had a memory")
            expect(not writer.delete(1000), "delete(1000) says that the unknown user 1000 had a memory")
        del written[5]
    with kind(location) as store:
        expect_records("read_all()", by_user(store.read_all()), written)
        expect_equal("count()", store.count(), len(written))
        expect_equal("has_memory of get([5, 6])", store.get(pa.array([5, 6]))[1].tolist(), [False, True])
        deleted = store.deleted(pa.array([5, 6, 1000, None])).tolist()
        expect_equal("deleted([5, 6, 1000, null])", deleted, [True, False, True, False])
        expect_equal("tombstones()", store.tombstones(), frozenset(tombstones_of(pa.array([5, 1000]))))
        expect_equal("journal()", store.journal(), journal_at(1, 0))
        bucket = int(bucket_of(pa.array([5]), NUM_BUCKETS)[0])
        with store.writer() as writer, expect_error("a write of a deleted user", "user 5"):
            writer.write(bucket, memories_of(in_bucket(USERS, bucket)), journal_at(1, 1))
        expect_records("read_all() after the refused write", by_user(store.read_all()), written)


def a_user_is_deleted_from_a_build_under_way(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A user deleted during a build has no memory when it ends, and the build continues."""
    bucket = int(bucket_of(pa.array([5]), NUM_BUCKETS)[0])
    with kind.create(new_location(), FACTS) as store:
        fill(store, pa.array([5, 6]))
        users = in_bucket(USERS, bucket)
        new = users[0].as_py()  # written by the build under way alone
        with store.writer() as writer:
            writer.write(bucket, memories_of(users), journal_at(1, 1))
            expect(writer.delete(5), "delete(5) says that user 5 had no memory")
            expect(writer.delete(new), f"delete({new}) says that user {new} of the build under way had no memory")
            expect_equal("journal() after the deletions", store.journal(), journal_at(1, 1))
            writer.finish(journal_at(2, 0))
        expected = {6, *users.to_pylist()} - {5, new}
        expect_equal("the users of read_all()", sorted(by_user(store.read_all())), sorted(expected))
        expect_equal("count()", store.count(), len(expected))


def tombstones_of_another_store_are_kept(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """`add_tombstones` stores the tombstones of another store, whose deleted users are then deleted here too."""
    location = new_location()
    with kind.create(location, FACTS) as store, store.writer() as writer:
        writer.add_tombstones(tombstones_of(pa.array([5, 6])))
        writer.add_tombstones([])
    with kind(location) as store:
        expect_equal("deleted([5, 6, 7])", store.deleted(pa.array([5, 6, 7])).tolist(), [True, True, False])
        expect_equal("tombstones()", store.tombstones(), frozenset(tombstones_of(pa.array([5, 6]))))
