"""Folds the events of one bucket of users into their memories: who was deleted, what came late, who is built anew."""

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
from pipelines.training.batches import pack_users
from rm_rec.histories import Histories

_NEVER = np.iinfo(np.int64).min
_FEWEST = 16  # a user counts as so many events, at least, when users are packed: its state has a size too


@dataclass
class Folded:
    """What became of a bucket's events."""

    memories: list[Memories] = field(default_factory=list)
    late: list[pa.Table] = field(default_factory=list)
    """Events that were set aside, with the time that their user's memory already held."""
    counts: Counter[str] = field(default_factory=Counter)
    """By the names that `Build` has for them."""
    first_time: int | None = None
    last_time: int | None = None


class MemoryFold:
    """Folds events into the memories of one store, with one model.

    `whole_log` gives the prepared log of all that was ever consumed, to build a user anew from when one of its events
    comes late; without it late events are set aside.
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
        known, has = self.store.get(events.users)
        newest = np.full(len(events.users), _NEVER)
        newest[has] = known.records["last_time"]
        newest_of_event = events.of_each_event(newest)
        late = events.time < newest_of_event
        folded.counts["late"] += int(late.sum())
        anew = np.zeros(len(events.users), bool)
        if late.any() and self.whole_log is not None:
            anew[owners(events.offsets)[late]] = True
            folded.counts["rebuilt_users"] += int(anew.sum())
            folded.memories += self._anew(self.whole_log(), bucket, events.users.filter(pa.array(anew)))
        elif late.any():
            times = pa.array(newest_of_event[late])
            folded.late.append(events.table.filter(pa.array(late)).append_column("memory_time", times))
            events = events.where(~late)
        folded.counts["events"] += len(events.time)
        if len(events.time):
            first, last = int(events.time.min()), int(events.time.max())
            folded.first_time = first if folded.first_time is None else min(first, folded.first_time)
            folded.last_time = last if folded.last_time is None else max(last, folded.last_time)
        chosen = np.flatnonzero((events.lengths > 0) & ~anew)
        place = np.cumsum(has) - 1
        folded.memories += self._fold(events.of_users(chosen), known.select(place[chosen[has[chosen]]]), has[chosen])

    def _anew(self, whole: PreparedLog, bucket: int, users: pa.Array) -> list[Memories]:
        """Build users' memories from all their events."""
        found = []
        for part in range(bucket, whole.num_buckets, self.store.facts.num_buckets):
            events = self._read(whole, part)
            wanted = pa.compute.is_in(events.users, value_set=users.cast(events.users.type))
            events = events.of_users(np.flatnonzero(wanted.to_numpy(zero_copy_only=False)))
            nobody = Memories.none(self.store.facts.memory)
            found += self._fold(events, nobody, np.zeros(len(events.users), bool))
        return found

    def _fold(self, events: UserEvents, known: Memories, has: NDArray[np.bool_]) -> list[Memories]:
        """Fold each user's events into its memory; `known` are those of the users who have one."""
        place = np.cumsum(has) - 1
        lengths = np.maximum(events.lengths, _FEWEST)
        parts = []
        with torch.inference_mode():
            for users in pack_users(np.arange(len(lengths)), lengths, self.batch_events):
                some = events.of_users(users)
                before = to_model(self.trained.model.memory, known.select(place[users[has[users]]]), has[users])
                after = self.trained.model.fold(before, _tensors(some))
                parts.append(to_store(self.trained.model.memory, self.store.facts.memory, some.users, after))
        return parts

    def _read(self, prepared: PreparedLog, part: int) -> UserEvents:
        return read_user_events(prepared, part, self.trained.vocabularies.features, self.trained.card.columns)


def _tensors(events: UserEvents) -> Histories:
    return Histories(
        lengths=torch.from_numpy(events.lengths),
        time=torch.from_numpy(events.time),
        keys={name: torch.from_numpy(rows) for name, rows in events.features.items()},
    )
