"""Checks of what a store of memories promises about writing: one writer, atomic steps, and a journal that agrees."""

import pyarrow as pa

from feature_store.errors import LockedError
from feature_store.stores.record import Memories
from feature_store.stores.store import MemoryStore
from feature_store.testing.contract import NewLocation, expect, expect_equal, expect_error, expect_records
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


def a_second_build_replaces_and_adds(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A later build replaces the records of its users and leaves all others as they were."""
    with kind.create(new_location(), FACTS) as store:
        written = fill(store)
        expect_equal("count() after one build", store.count(), len(written))
        newer = fill(store, pa.array(range(30, 60)), seed=50, build=1)
        expect_records("read_all()", by_user(store.read_all()), written | newer)
        expect_equal("count() after another", store.count(), len(written | newer))
        expect_equal("journal()", store.journal(), journal_at(2, 0))


def a_bucket_may_be_written_more_than_once_in_a_build(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Several writes of one bucket add up, repeating one changes nothing, and each one sets the journal."""
    users = in_bucket(USERS, 2)
    parts = [memories_of(users.slice(start, 4), seed=start) for start in range(0, len(users), 4)]
    with kind.create(new_location(), FACTS) as store:
        with store.writer() as writer:
            for step, part in enumerate(parts):
                writer.write(2, part, journal_at(0, step + 1))
                expect_equal(f"journal() after step {step + 1}", store.journal(), journal_at(0, step + 1))
            writer.write(2, parts[0], journal_at(0, 9))
            writer.write(1, Memories.none(SCHEMA), journal_at(0, 10))
            expect_equal("journal() after a write without users", store.journal(), journal_at(0, 10))
            writer.finish(journal_at(1, 0))
        expect_records("read_all()", by_user(store.read_all()), by_user(parts))
        expect_equal("count()", store.count(), len(users))


def a_build_under_way_is_read_whole_or_not_at_all(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """During a build readers see all of its steps or none, as the store decides; after its end they see all."""
    with kind.create(new_location(), FACTS) as store:
        before = fill(store)
        after = memories_of(in_bucket(pa.array(range(-20, 60)), 1), seed=9)
        both = before | by_user([after])
        users = pa.array(list(both))
        with store.writer() as writer:
            writer.write(1, after, journal_at(1, 1))
            expect_equal("journal() under way", store.journal(), journal_at(1, 1))
            expect_records("read_all() under way", by_user(store.read_all()), before, both)
            expect_records("get() under way", by_user([store.get(users)[0]]), before, both)
            writer.finish(journal_at(2, 0))
        expect_records("read_all() after the build", by_user(store.read_all()), both)
        expect_records("get() after the build", by_user([store.get(users)[0]]), both)
        expect_equal("journal() after the build", store.journal(), journal_at(2, 0))


def a_build_continues_after_the_store_was_closed(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A completed `write` and its journal persist, and the build can be continued after the store is opened again."""
    location = new_location()
    parts = [memories_of(in_bucket(USERS, bucket), seed=bucket) for bucket in (0, 1)]
    with kind.create(location, FACTS) as store, store.writer() as writer:
        writer.write(0, parts[0], journal_at(0, 1))
    with kind(location) as store:
        expect_equal("journal() of a store opened again", store.journal(), journal_at(0, 1))
        with store.writer() as writer:
            expect_equal("journal() of a store with a new writer", store.journal(), journal_at(0, 1))
            writer.write(1, parts[1], journal_at(0, 2))
            writer.finish(journal_at(1, 0))
    with kind(location) as store:
        expect_equal("journal() after the build", store.journal(), journal_at(1, 0))
        expect_records("read_all() after the build", by_user(store.read_all()), by_user(parts))


def invalid_writes_change_nothing(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A write of users of another bucket or type, of a user twice or of a damaged record is refused.

    So is a bucket that the store does not have, and finishing a build that the journal has under way. The message names
    the user or the bucket, and the store is unchanged.
    """
    users, others = in_bucket(USERS, 0), in_bucket(USERS, 1)
    good = memories_of(users)
    wrong = good.records.copy()
    wrong["num_events"][1] += 1
    cases = [
        ("users of bucket 1 in bucket 0", 0, memories_of(others), f"user {others[0].as_py()}"),
        ("a user twice", 0, memories_of(users.take(pa.array([0, 1, 0]))), ""),
        ("records of another structure", 0, memories_of(users, schema=SCHEMA.of_dtype("float32")), ""),
        ("text where users are integers", 0, Memories(users.cast(pa.string()), good.records), "int64"),
        ("a damaged record", 0, Memories(good.users, wrong), f"user {users[1].as_py()}"),
        ("a bucket beyond the last", 4, good, "bucket 4"),
        ("a bucket before the first", -1, good, "bucket -1"),
    ]
    with kind.create(new_location(), FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            for label, bucket, memories, naming in cases:
                with expect_error(f"a write of {label}", naming):
                    writer.write(bucket, memories, journal_at(1, 1))
            with expect_error("finish() of a build that the journal has under way", "build-1"):
                writer.finish(journal_at(1, 1))
        expect_equal("journal() after refused writes", store.journal(), journal_at(1, 0))
        expect_records("read_all() after refused writes", by_user(store.read_all()), written)


def a_closed_writer_is_refused(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A writer used after its `with` block raises DataError and writes nothing."""
    with kind.create(new_location(), FACTS) as store:
        written = fill(store)
        with store.writer() as writer:
            pass
        good = memories_of(in_bucket(USERS, 0), seed=9)
        with expect_error("write() of a closed writer"):
            writer.write(0, good, journal_at(1, 1))
        with expect_error("finish() of a closed writer"):
            writer.finish(journal_at(2, 0))
        with expect_error("delete() of a closed writer"):
            writer.delete(5)
        with expect_error("add_tombstones() of a closed writer"):
            writer.add_tombstones([b"x" * 16])
        expect_equal("journal()", store.journal(), journal_at(1, 0))
        expect_records("read_all()", by_user(store.read_all()), written)
        expect_equal("tombstones()", store.tombstones(), frozenset())


def a_second_writer_is_refused_at_once(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A store has one writer: a second raises LockedError at once, until the first one ends or fails."""
    with kind.create(new_location(), FACTS) as store:
        with store.writer() as writer:
            with expect_error("a second writer", error_type=LockedError), store.writer():
                pass
            writer.write(0, memories_of(in_bucket(USERS, 0)), journal_at(0, 1))  # the first writer continues
        try:
            with store.writer():
                raise _WriterFailedError
        except _WriterFailedError:
            pass
        with store.writer() as writer:
            writer.finish(journal_at(1, 0))
        expect(store.count() == len(in_bucket(USERS, 0)), f"count() gave {store.count()} after a refused writer")


class _WriterFailedError(Exception):
    """Raised inside a writer's block."""
