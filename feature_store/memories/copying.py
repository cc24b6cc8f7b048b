"""Copies a store: to another kind of store, or to another precision."""

import itertools
from collections.abc import Iterator
from contextlib import suppress

from feature_store.errors import DataError
from feature_store.memories.addresses import find_kind
from feature_store.memories.memory_schema import Dtype, MemorySchema
from feature_store.memories.record import Memories, make_memories
from feature_store.memories.store import MemoryStore
from feature_store.memories.users import bucket_of


def copy(source: MemoryStore, target_address: str, dtype: Dtype | None = None) -> MemoryStore:
    """Write all memories, the journal and the tombstones of a store to a new one, and open that.

    The new store gets its name when it is whole: a copy that was killed is begun again by the same call, and one that
    was refused leaves nothing behind. One bucket is in memory at a time. With `dtype`, states are kept in that
    precision, but for parts with a type of their own.

    Raises:
        DataError: there is something at the target; a build of the source is under way, or it changed meanwhile; a
            state that overflows float16.
    """
    journal, tombstones = source.journal(), source.tombstones()
    if journal.under_way is not None:
        raise DataError(
            f"{source.address}: build {journal.under_way.build.id} is under way; run it to its end, then copy the store"
        )
    facts = source.facts.model_copy(update={"memory": source.facts.memory.of_dtype(dtype)})
    kind, place = find_kind(target_address, new=True)
    kind.refuse_taken(place)
    draft = kind.draft_of(place)
    kind.discard(draft)
    made = kind.create(draft, facts)
    try:
        with made as target, target.writer() as writer:
            writer.bury(tombstones)
            for bucket, memories in _by_bucket(source):
                writer.write(bucket, _convert(memories, facts.memory), journal)
            writer.finish(journal)
        if (source.journal(), source.tombstones()) != (journal, tombstones):
            raise DataError(f"{source.address}: it was written to while it was copied; copy it again")
        kind.settle(draft, place)
    except BaseException:
        # The draft may be as large as the source. Why the copy was refused says more than why it could not be removed.
        with suppress(DataError):
            kind.discard(draft)
        raise
    return kind(place)


def _by_bucket(source: MemoryStore) -> Iterator[tuple[int, Memories]]:
    def bucket(memories: Memories) -> int:
        return int(bucket_of(memories.users.slice(0, 1), source.facts.num_buckets)[0])

    filled = (memories for memories in source.scan() if len(memories))
    for number, parts in itertools.groupby(filled, bucket):
        yield number, Memories.concat(list(parts))


def _convert(memories: Memories, schema: MemorySchema) -> Memories:
    if memories.records.dtype == schema.record_dtype:
        return memories
    numbers = {name: memories.records[name] for name in ("last_time", "num_events", "num_window")}
    return make_memories(schema, memories.users, memories.state(), window=memories.window(), **numbers)
