"""Folds events into the memories of their users, bucket by bucket; handles deleted users and late events."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from feature_store.logs.prepared_log import PreparedLog
from feature_store.ragged import Ids, owners
from feature_store.sequences.user_events import UserEvents, read_user_events
from feature_store.stores.record import Memories
from feature_store.stores.store import MemoryStore
from feature_store.stores.users import bucket_of
from pipelines.models.artifact import TrainedModel
from pipelines.models.memory_records import to_model, to_store
from pipelines.training.batches import BatchSize, pack_users
from rm_rec.histories import Histories

_NEVER = np.iinfo(np.int64).min
_LEAST_EVENTS = 16  # counted per user in a batch, since a state takes memory too


@dataclass
class Folded:
    """Results of folding one bucket's events."""

    memories: list[Memories] = field(default_factory=list)
    late: list[pa.Table] = field(default_factory=list)
    """Events that were set aside, with the time of the newest event in their user's memory."""
    counts: Counter[str] = field(default_factory=Counter)
    """Counts, by their names in `Build`."""
    first_time: int | None = None
    last_time: int | None = None


class MemoryFold:
    """Folds events into the memories of one store, with one model.

    `whole_log` returns the prepared log of all consumed files, from which a user with a late event is rebuilt; if it is
    None, late events are set aside.
    """

    def __init__(
        self,
        trained: TrainedModel,
        store: MemoryStore,
        batch_events: int,
        whole_log: Callable[[], PreparedLog] | None,
    ) -> None:
        self.trained, self.store, self.batch_events, self.whole_log = trained, store, batch_events, whole_log

    def buckets(self, prepared: PreparedLog, first: int = 0) -> Iterator[tuple[int, Folded]]:
        """Fold the new events of each of the store's buckets, beginning with the first, and yield what came of each.

        A log that has all events in one bucket is read once, and small buckets of the store are folded together.
        """
        log = _LogByUser(prepared, self.store.facts.num_buckets, self._read)
        done: list[tuple[int, Folded]] = []
        waiting: list[_Selected] = []
        size = 0
        for bucket in range(first, self.store.facts.num_buckets):
            folded = Folded()
            for events in log.of_bucket(bucket):
                waiting.append(self._select(events, bucket, folded))
                size += int(np.maximum(waiting[-1].events.lengths, _LEAST_EVENTS).sum())
                if not log.in_one_bucket or size >= self.batch_events:
                    self._fold_together(waiting)
                    waiting, size = [], 0
            done.append((bucket, folded))
            if not waiting:
                yield from _counted(done)
                done = []
        self._fold_together(waiting)
        yield from _counted(done)

    def _select(self, events: UserEvents, bucket: int, folded: Folded) -> "_Selected":
        """Select the events to fold and the memories they are folded into; rebuild users, and set late events aside."""
        deleted = self.store.deleted(events.users)
        if deleted.any():
            folded.counts["skipped_deleted"] += int(events.lengths[deleted].sum())
            events = events.of_users(np.flatnonzero(~deleted))
        memories, has_memory = self.store.get(events.users)
        newest = np.full(len(events.users), _NEVER)
        newest[has_memory] = memories.records["last_time"]
        newest_of_event = events.of_each_event(newest)
        late = events.time < newest_of_event
        folded.counts["late"] += int(late.sum())
        rebuilt = np.zeros(len(events.users), bool)
        if late.any() and self.whole_log is not None:
            rebuilt[owners(events.offsets)[late]] = True
            folded.counts["rebuilt_users"] += int(rebuilt.sum())
            folded.memories += self._rebuild(bucket, events.users.filter(pa.array(rebuilt)))
        elif late.any():
            times = pa.array(newest_of_event[late])
            folded.late.append(events.where(late).table.append_column("memory_time", times))
            events = events.where(~late)
        folded.counts["events"] += len(events.time)
        if len(events.time):
            first, last = int(events.time.min()), int(events.time.max())
            folded.first_time = first if folded.first_time is None else min(first, folded.first_time)
            folded.last_time = last if folded.last_time is None else max(last, folded.last_time)
        selected = (events.lengths > 0) & ~rebuilt
        if selected.all():
            return _Selected(bucket, folded, events, memories, has_memory)
        known = memories.select(selected[has_memory])
        return _Selected(bucket, folded, events.of_users(np.flatnonzero(selected)), known, has_memory[selected])

    def _fold_together(self, waiting: list["_Selected"]) -> None:
        """Fold selected events of several buckets, and add each bucket's memories to its results."""
        if not waiting:
            return
        events = UserEvents.concat([selected.events for selected in waiting])
        known = Memories.concat([selected.memories for selected in waiting])
        parts = self._fold(events, known, np.concatenate([selected.has_memory for selected in waiting]))
        if len(waiting) == 1:
            waiting[0].folded.memories += parts
        elif parts:
            memories = Memories.concat(parts)
            bucket = bucket_of(memories.users, self.store.facts.num_buckets)
            for selected in waiting:
                here = np.flatnonzero(bucket == selected.bucket)
                selected.folded.memories += [memories.select(here)] if len(here) else []

    def _rebuild(self, bucket: int, users: pa.Array) -> list[Memories]:
        """Build users' memories from all their events."""
        rebuilt = []
        for events in self._whole.of_bucket(bucket):
            is_selected = pa.compute.is_in(events.users, value_set=users.cast(events.users.type))
            events = events.of_users(np.flatnonzero(is_selected.to_numpy(zero_copy_only=False)))
            none = Memories.none(self.store.facts.memory)
            rebuilt += self._fold(events, none, np.zeros(len(events.users), bool))
        return rebuilt

    @cached_property
    def _whole(self) -> "_LogByUser":
        assert self.whole_log is not None
        return _LogByUser(self.whole_log(), self.store.facts.num_buckets, self._read)

    def _fold(self, events: UserEvents, memories: Memories, has_memory: NDArray[np.bool_]) -> list[Memories]:
        """Fold each user's events into its memory; `memories` are those of the users who have one."""
        row = np.cumsum(has_memory) - 1  # of a user among `memories`
        lengths = np.maximum(events.lengths, _LEAST_EVENTS)
        parts = []
        with torch.inference_mode():
            for users in pack_users(
                np.arange(len(lengths)), lengths, BatchSize(self.batch_events * self.trained.model.memory.batch_factor)
            ):
                batch = events.of_users(users)
                known = memories.select(row[users[has_memory[users]]])
                before = to_model(self.trained.model.memory, known, has_memory[users])
                after = self.trained.model.fold(before, _tensors(batch))
                parts.append(to_store(self.trained.model.memory, self.store.facts.memory, batch.users, after))
        return parts

    def _read(self, prepared: PreparedLog, part: int) -> UserEvents:
        return read_user_events(prepared, part, self.trained.vocabularies.features, self.trained.card.columns)


@dataclass(frozen=True)
class _Selected:
    """Events of users of one of the store's buckets, and the memories that they are folded into."""

    bucket: int
    folded: Folded
    events: UserEvents
    memories: Memories  # of the users who have one
    has_memory: NDArray[np.bool_]  # [U]


class _LogByUser:
    """A prepared log, read by the store's buckets; of these it has all in one bucket, or each in buckets of its own."""

    def __init__(self, prepared: PreparedLog, num_buckets: int, read: Callable[[PreparedLog, int], UserEvents]) -> None:
        self._prepared, self._num_buckets, self._read = prepared, num_buckets, read
        self.in_one_bucket = prepared.num_buckets == 1

    def of_bucket(self, bucket: int) -> Iterator[UserEvents]:
        if self.in_one_bucket:
            events, bucket_of_user = self._all
            yield events.of_users(np.flatnonzero(bucket_of_user == bucket))
            return
        for part in range(bucket, self._prepared.num_buckets, self._num_buckets):
            yield self._read(self._prepared, part)

    @cached_property
    def _all(self) -> tuple[UserEvents, Ids]:
        events = self._read(self._prepared, 0)
        return events, bucket_of(events.users, self._num_buckets)


def _counted(done: list[tuple[int, Folded]]) -> list[tuple[int, Folded]]:
    for _, folded in done:
        folded.counts["users"] = sum(len(memories) for memories in folded.memories)
    return done


def _tensors(events: UserEvents) -> Histories:
    return Histories(
        lengths=torch.from_numpy(events.lengths),
        time=torch.from_numpy(events.time),
        keys={name: torch.from_numpy(rows) for name, rows in events.features.items()},
    )
