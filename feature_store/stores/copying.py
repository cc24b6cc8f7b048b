"""Copying a store to another kind of store, or to another precision."""

import itertools
from collections.abc import Iterator
from contextlib import suppress

from feature_store.errors import DataError
from feature_store.stores.addresses import find_kind
from feature_store.stores.memory_schema import Dtype, MemorySchema
from feature_store.stores.record import Memories, make_memories
from feature_store.stores.store import MemoryStore
from feature_store.stores.users import bucket_of
from rm_rec.errors import RmRecError


def copy(source: MemoryStore, target_address: str, dtype: Dtype | None = None) -> MemoryStore:
    """Copy all memories, the journal and the tombstones of a store to a new store, and open that.

    The new store appears at its address when it is complete; after a crash the same call starts the copy again, and a
    copy that fails leaves nothing behind. One bucket is in memory at a time. With `dtype`, floats are stored in that
    precision, except parts with their own type.

    Raises:
        DataError: there is something at the target; a build of the source is under way, or the source changed during
            the copy; a state overflows float16.
    """
    journal, tombstones = source.journal(), source.tombstones()
    if journal.under_way is not None:
        raise DataError(
            f"{source.address}: build {journal.under_way.build.id} is under way; finish that build, then copy the store"
        )
    facts = source.facts.model_copy(update={"memory": source.facts.memory.of_dtype(dtype)})
    kind, location = find_kind(target_address, new=True)
    kind.check_free(location)
    draft = kind.draft_location(location)
    kind.remove(draft)
    new_store = kind.create(draft, facts)
    try:
        with new_store as target, target.writer() as writer:
            writer.add_tombstones(tombstones)
            for bucket, memories in _by_bucket(source):
                writer.write(bucket, _convert(memories, facts.memory), journal)
            writer.finish(journal)
        if (source.journal(), source.tombstones()) != (journal, tombstones):
            raise DataError(f"{source.address}: it was written to during the copy; copy it again")
        kind.publish(draft, location)
    except BaseException:
        # The draft may be as large as the source. If it cannot be removed, the first error still says more.
        with suppress(RmRecError):
            kind.remove(draft)
        raise
    return kind(location)


def _by_bucket(source: MemoryStore) -> Iterator[tuple[int, Memories]]:
    def bucket(memories: Memories) -> int:
        return int(bucket_of(memories.users.slice(0, 1), source.facts.num_buckets)[0])

    nonempty = (memories for memories in source.read_all() if len(memories))
    for number, parts in itertools.groupby(nonempty, bucket):
        yield number, Memories.concat(list(parts))


def _convert(memories: Memories, schema: MemorySchema) -> Memories:
    if memories.records.dtype == schema.record_dtype:
        return memories
    numbers = {name: memories.records[name] for name in ("last_time", "num_events", "num_window")}
    return make_memories(schema, memories.users, memories.state(), window=memories.window(), **numbers)
