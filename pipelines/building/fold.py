"""Folds the events of one bucket of users into their memories; handles deleted users and late events."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from feature_store.logs.prepared_log import PreparedLog
from feature_store.ragged import owners
from feature_store.sequences.user_events import UserEvents, read_user_events
from feature_store.stores.record import Memories
from feature_store.stores.store import MemoryStore
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

    def bucket(self, prepared: PreparedLog, bucket: int) -> Folded:
        """Fold the new events of the users of one of the store's buckets."""
        folded = Folded()
        for part in range(bucket, prepared.num_buckets, self.store.facts.num_buckets):
            self._part(self._read(prepared, part), bucket, folded)
        folded.counts["users"] = sum(len(memories) for memories in folded.memories)
        return folded

    def _part(self, events: UserEvents, bucket: int, folded: Folded) -> None:
        deleted = self.store.deleted(events.users)
        folded.counts["skipped_deleted"] += int(events.lengths[deleted].sum())
        events = events.of_users(np.flatnonzero(~deleted))
        if not len(events.time):
            return
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
            folded.memories += self._rebuild(self.whole_log(), bucket, events.users.filter(pa.array(rebuilt)))
        elif late.any():
            times = pa.array(newest_of_event[late])
            folded.late.append(events.table.filter(pa.array(late)).append_column("memory_time", times))
            events = events.where(~late)
        folded.counts["events"] += len(events.time)
        if len(events.time):
            first, last = int(events.time.min()), int(events.time.max())
            folded.first_time = first if folded.first_time is None else min(first, folded.first_time)
            folded.last_time = last if folded.last_time is None else max(last, folded.last_time)
        users = np.flatnonzero((events.lengths > 0) & ~rebuilt)
        row = np.cumsum(has_memory) - 1  # of a user among `memories`
        known = memories.select(row[users[has_memory[users]]])
        folded.memories += self._fold(events.of_users(users), known, has_memory[users])

    def _rebuild(self, whole: PreparedLog, bucket: int, users: pa.Array) -> list[Memories]:
        """Build users' memories from all their events."""
        rebuilt = []
        for part in range(bucket, whole.num_buckets, self.store.facts.num_buckets):
            events = self._read(whole, part)
            is_selected = pa.compute.is_in(events.users, value_set=users.cast(events.users.type))
            events = events.of_users(np.flatnonzero(is_selected.to_numpy(zero_copy_only=False)))
            none = Memories.none(self.store.facts.memory)
            rebuilt += self._fold(events, none, np.zeros(len(events.users), bool))
        return rebuilt

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


def _tensors(events: UserEvents) -> Histories:
    return Histories(
        lengths=torch.from_numpy(events.lengths),
        time=torch.from_numpy(events.time),
        keys={name: torch.from_numpy(rows) for name, rows in events.features.items()},
    )
