"""Batches of tensors from sequences: which users share a batch, and in what order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from feature_store.data_config import ITEM, Columns, Impressions, NextEvent
from feature_store.ragged import Ids
from feature_store.sequences.user_sequences import UserSequences
from feature_store.vocabulary.vocabularies import Vocabularies
from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace

# A batch with few impressions may hold so many times more events: where users have one impression each, a step on
# a hundred users costs a third a user of one on four, and its gradient says more.
_MOST_EVENTS = 32

# Users are sorted by length within groups of this many batches: batches then need little padding, and the order stays
# random.
_BATCHES_SORTED_TOGETHER = 24


def feature_space(columns: Columns, impressions: Impressions, vocabularies: Vocabularies) -> FeatureSpace:
    """Return the features that a log gives a model, and the number of rows of each one's embedding table."""
    context: tuple[str, ...] = ()
    num_dense = 0
    if not isinstance(impressions, NextEvent):
        context, num_dense = impressions.context_features, len(impressions.context_dense)
    events = (ITEM, *columns.event_features, *columns.item_features)
    targets = (ITEM, *columns.item_features)
    names = dict.fromkeys([*events, *targets, *context])
    return FeatureSpace(
        rows={name: vocabularies.features[name].num_rows for name in names},
        events=events,
        targets=targets,
        context=context,
        num_context_dense=num_dense,
    )


def to_batch(sequences: UserSequences) -> UserBatch:
    """Convert users' sequences from NumPy to tensors."""
    return UserBatch(
        event_lengths=torch.from_numpy(np.diff(sequences.event_offsets)),
        event_time=torch.from_numpy(sequences.event_time),
        events={name: torch.from_numpy(ids) for name, ids in sequences.events.items()},
        impression_lengths=torch.from_numpy(np.diff(sequences.impression_offsets)),
        impression_time=torch.from_numpy(sequences.impression_time),
        num_earlier=torch.from_numpy(sequences.num_earlier),
        targets={name: torch.from_numpy(ids) for name, ids in sequences.targets.items()},
        context={name: torch.from_numpy(ids) for name, ids in sequences.context.items()},
        context_dense=torch.from_numpy(sequences.context_dense),
        label=torch.from_numpy(sequences.label),
    )


@dataclass(frozen=True)
class BatchSize:
    """How many users share a batch: up to `events` events, or more until it has `impressions` impressions.

    Padding counts as events. A user with more than `most_events` events is a batch of its own.
    """

    events: int
    impressions: int = 0
    most_events: int = 0

    @classmethod
    def of(cls, events: int, impressions: int, total_events: int, min_batches: int) -> "BatchSize":
        """Return the size by settings, made smaller where `total_events` would not make `min_batches` batches."""
        limit = max(1, total_events // min_batches)
        return cls(min(events, limit), impressions, min(_MOST_EVENTS * events, limit))

    def is_reached(self, impressions: int, events_with_next: int) -> bool:
        """Return whether to close a batch of so many impressions, which with one more user has so many events."""
        enough = self.events if impressions >= self.impressions else max(self.events, self.most_events)
        return events_with_next > enough


def plan_batches(sequences: UserSequences, size: BatchSize, generator: np.random.Generator | None) -> list[Ids]:
    """Group the users that have impressions into batches.

    Users are shuffled if there is a generator, else sorted by length.
    """
    impressions = np.diff(sequences.impression_offsets)
    users = np.flatnonzero(impressions)
    lengths = np.diff(sequences.event_offsets)
    if generator is not None:
        generator.shuffle(users)
        mean = max(1.0, float(lengths[users].mean())) if len(users) else 1.0
        group_size = max(1, int(_BATCHES_SORTED_TOGETHER * max(size.events, size.most_events) / mean))
    else:
        group_size = max(1, len(users))
    batches: list[Ids] = []
    for start in range(0, len(users), group_size):
        batches += pack_users(users[start : start + group_size], lengths, size, impressions)
    if generator is not None:
        generator.shuffle(batches)
    return batches


def iterate_batches(
    sequences: UserSequences, split: int, size: BatchSize, generator: np.random.Generator | None = None
) -> Iterator[tuple[UserSequences, UserBatch]]:
    """Yield the users that have impressions in a split, batch by batch, with only that split's impressions."""
    part = sequences.select(np.arange(len(sequences.users)), split)
    for users in plan_batches(part, size, generator):
        chosen = part.select(users, None)
        yield chosen, to_batch(chosen)


def pack_users(users: Ids, lengths: Ids, size: BatchSize, impressions: Ids | None = None) -> list[Ids]:
    """Cut users, shortest first, into batches; without `impressions`, their numbers for all users, by events alone."""
    users = users[np.argsort(lengths[users], kind="stable")]
    counts = np.zeros(len(users), np.int64) if impressions is None else impressions[users]
    batches, start, num_impressions = [], 0, 0
    for end in range(1, len(users) + 1):
        num_impressions += int(counts[end - 1])
        is_last = end == len(users)
        if is_last or size.is_reached(num_impressions, (end + 1 - start) * max(1, int(lengths[users[end]]))):
            batches.append(users[start:end])
            start, num_impressions = end, 0
    return batches
