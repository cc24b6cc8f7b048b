"""What a store of memories promises those who are deleted from it."""

import pyarrow as pa

from feature_store.stores.store import MemoryStore
from feature_store.stores.users import bucket_of, tombstones_of
from feature_store.testing.contract import NewPlace, expect, expect_equal, expect_records, refused
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


def a_deleted_user_is_gone_and_stays_so(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """A deleted user has no record, a tombstone, and no way back: a later write of that user is refused.

    So it is with one who never had a memory, and after the store was closed.
    """
    place = new_place()
    with kind.create(place, FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            expect(writer.delete(5), "delete(5) says that user 5 had no memory")
            expect(not writer.delete(5), "delete(5) says a second time that user 5 had a memory")
            expect(not writer.delete(1000), "delete(1000) says that user 1000, who never was, had a memory")
        del written[5]
    with kind(place) as store:
        expect_records("scan()", by_user(store.scan()), written)
        expect_equal("count()", store.count(), len(written))
        expect_equal("whom get([5, 6]) found", store.get(pa.array([5, 6]))[1].tolist(), [False, True])
        deleted = store.deleted(pa.array([5, 6, 1000, None])).tolist()
        expect_equal("deleted([5, 6, 1000, null])", deleted, [True, False, True, False])
        expect_equal("tombstones()", store.tombstones(), frozenset(tombstones_of(pa.array([5, 1000]))))
        expect_equal("journal()", store.journal(), journal_at(1, 0))
        bucket = int(bucket_of(pa.array([5]), NUM_BUCKETS)[0])
        with store.writer() as writer, refused("a write of a deleted user", "user 5"):
            writer.write(bucket, memories_of(in_bucket(USERS, bucket)), journal_at(1, 1))
        expect_records("scan() after the refused write", by_user(store.scan()), written)


def a_user_is_deleted_from_a_build_under_way(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Who is deleted while a build is under way is not in what it ends with, and the build goes on."""
    bucket = int(bucket_of(pa.array([5]), NUM_BUCKETS)[0])
    with kind.create(new_place(), FACTS) as store:
        fill(store, pa.array([5, 6]))
        users = in_bucket(USERS, bucket)
        new = users[0].as_py()  # whom only the build under way has
        with store.writer() as writer:
            writer.write(bucket, memories_of(users), journal_at(1, 1))
            expect(writer.delete(5), "delete(5) says that user 5 had no memory")
            expect(writer.delete(new), f"delete({new}) says that user {new}, of the build under way, had no memory")
            expect_equal("journal() after the deletions", store.journal(), journal_at(1, 1))
            writer.finish(journal_at(2, 0))
        expected = {6, *users.to_pylist()} - {5, new}
        expect_equal("the users of scan()", sorted(by_user(store.scan())), sorted(expected))
        expect_equal("count()", store.count(), len(expected))


def tombstones_of_another_store_are_kept(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """`bury` keeps the tombstones of a store that is copied: its deleted users are deleted here too."""
    place = new_place()
    with kind.create(place, FACTS) as store, store.writer() as writer:
        writer.bury(tombstones_of(pa.array([5, 6])))
        writer.bury([])
    with kind(place) as store:
        expect_equal("deleted([5, 6, 7])", store.deleted(pa.array([5, 6, 7])).tolist(), [True, True, False])
        expect_equal("tombstones()", store.tombstones(), frozenset(tombstones_of(pa.array([5, 6]))))
