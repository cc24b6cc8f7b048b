"""Users' events with impressions or candidates, as embedding rows: batches to train on, candidates to score.

A batch holds users, each with all its events and all its impressions, so that training reads a user once.
Suffixes: U user, E event (of all users), I impression or candidate (of all users).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from rm_rec.config import FeatureSpace
from rm_rec.errors import BatchError
from rm_rec.histories import Histories, Queries, expect_rows
from rm_rec.time_bins import gap_bins


@dataclass(frozen=True, kw_only=True)
class UserBatch:
    """Jagged events in time order and impressions, user after user; ids are embedding rows.

    User u owns the next `event_lengths[u]` events and the next `impression_lengths[u]` impressions. An impression's
    history is its user's first `num_earlier` events, and nothing else. Raises BatchError if lengths, rows or
    `num_earlier` are inconsistent; values are checked on the CPU only, since elsewhere that would wait for the device.

    >>> batch = UserBatch(
    ...     event_lengths=torch.tensor([2, 0]),  # two users, of whom one has no history
    ...     event_time=torch.tensor([100, 160]),
    ...     events={"item": torch.tensor([7, 3])},
    ...     impression_lengths=torch.tensor([1, 1]),
    ...     impression_time=torch.tensor([200, 210]),
    ...     num_earlier=torch.tensor([2, 0]),
    ...     targets={"item": torch.tensor([3, 7])},
    ...     context={},
    ...     context_dense=torch.zeros(2, 0),
    ...     label=torch.tensor([1.0, 0.0]),
    ... )
    >>> batch.impression_user.tolist()
    [0, 1]
    """

    event_lengths: Tensor  # [U] int64
    event_time: Tensor  # [E] int64, any unit
    events: dict[str, Tensor]  # feature -> [E] int64
    impression_lengths: Tensor  # [U] int64
    impression_time: Tensor  # [I] int64, the events' unit
    num_earlier: Tensor  # [I] int64
    targets: dict[str, Tensor]  # feature -> [I] int64
    context: dict[str, Tensor]  # feature -> [I] int64
    context_dense: Tensor  # [I, number of dense context features] float32
    label: Tensor  # [I] float32, 0 or 1

    def __post_init__(self) -> None:
        expect_rows("impression_lengths", self.impression_lengths, len(self.event_lengths), "as many as event_lengths")
        if self.event_lengths.device.type != "cpu":
            return
        for name in ("event_lengths", "impression_lengths"):
            lengths: Tensor = getattr(self, name)
            if len(lengths) and int(lengths.min()) < 0:
                raise BatchError(f"{name} has {int(lengths.min())}, expected 0 or more")
        num_events, num_impressions = int(self.event_lengths.sum()), int(self.impression_lengths.sum())
        expect_rows("event_time", self.event_time, num_events, "the sum of event_lengths")
        for name, ids in self.events.items():
            expect_rows(f"events[{name!r}]", ids, num_events, "the sum of event_lengths")
        per_impression = {
            "impression_time": self.impression_time,
            "num_earlier": self.num_earlier,
            "context_dense": self.context_dense,
            "label": self.label,
        }
        per_impression |= {f"targets[{name!r}]": ids for name, ids in self.targets.items()}
        per_impression |= {f"context[{name!r}]": ids for name, ids in self.context.items()}
        for name, values in per_impression.items():
            expect_rows(name, values, num_impressions, "the sum of impression_lengths")
        available = self.event_lengths.repeat_interleave(self.impression_lengths)
        wrong = (self.num_earlier < 0) | (self.num_earlier > available)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise BatchError(
                f"num_earlier of impression {first} is {int(self.num_earlier[first])}, expected 0 to "
                f"{int(available[first])}: its user's number of events in the batch"
            )

    @property
    def num_users(self) -> int:
        """Number of users in the batch."""
        return len(self.event_lengths)

    @property
    def impression_user(self) -> Tensor:
        """[I] Index in the batch of each impression's user."""
        users = torch.arange(self.num_users, device=self.event_lengths.device)
        return users.repeat_interleave(self.impression_lengths, output_size=len(self.num_earlier))

    @cached_property
    def event_gap(self) -> Tensor:
        """[E] The binned time since the same user's previous event."""
        return gap_bins(self.event_time, self.event_lengths)

    def histories(self, tokens: Tensor | None = None) -> Histories:
        """Return the events as `Histories`, with their vectors `tokens` [E, D] if given."""
        return Histories(lengths=self.event_lengths, time=self.event_time, tokens=tokens, keys=self.events)

    def queries(self, tokens: Tensor) -> Queries:
        """Return the impressions as `Queries`, with their targets' vectors `tokens` [I, D]."""
        return Queries(
            tokens=tokens,
            user=self.impression_user,
            time=self.impression_time,
            num_earlier=self.num_earlier,
            keys=self.targets,
        )

    def check(self, features: FeatureSpace) -> None:
        """Raise BatchError if the batch lacks a feature of the model or, on the CPU, has an id outside its table."""
        for where, names in (("events", features.events), ("targets", features.targets), ("context", features.context)):
            columns: dict[str, Tensor] = getattr(self, where)
            if set(columns) != set(names):
                raise BatchError(f"{where} has features {sorted(columns)}, the model expects {sorted(names)}")
            for name, ids in columns.items():
                if not len(ids) or ids.device.type != "cpu":
                    continue
                least, most = (int(bound) for bound in torch.aminmax(ids))
                if least < 0 or most >= features.rows[name]:
                    raise BatchError(
                        f"{where}[{name!r}] has ids from {least} to {most}, the model's table has rows 0 to "
                        f"{features.rows[name] - 1}"
                    )
        if self.context_dense.shape[1] != features.num_context_dense:
            raise BatchError(
                f"context_dense has {self.context_dense.shape[1]} columns, the model expects "
                f"{features.num_context_dense}"
            )

    def to(self, device: torch.device | str) -> "UserBatch":
        """Return the batch on another device; the same object if it is there already."""
        if self.event_lengths.device == torch.device(device):
            return self
        return _each_tensor(self, lambda values: values.to(device))


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Items to score for some users; ids are embedding rows.

    >>> user, time, items = torch.tensor([0, 0, 1]), torch.tensor([9, 9, 9]), {"item": torch.tensor([3, 7, 3])}
    >>> candidates = Candidates(user=user, time=time, targets=items, context={}, context_dense=torch.zeros(3, 0))
    >>> len(candidates.take(torch.tensor([2, 0])))
    2
    """

    user: Tensor  # [I] int64, index of the user's memory
    time: Tensor  # [I] int64
    targets: dict[str, Tensor]  # feature -> [I] int64
    context: dict[str, Tensor]  # feature -> [I] int64
    context_dense: Tensor  # [I, number of dense context features] float32

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self.user)

    def take(self, rows: Tensor) -> "Candidates":
        """Select candidates by their indices, in the order of `rows`."""
        return _each_tensor(self, lambda values: values.index_select(0, rows))

    def of_users(self, user: Tensor) -> "Candidates":
        """Return the candidates with other indices [I] of their users' memories."""
        return replace(self, user=user)

    def queries(self, tokens: Tensor) -> Queries:
        """Return the candidates as `Queries`, with their targets' vectors `tokens` [I, D]."""
        return Queries(tokens=tokens, user=self.user, time=self.time, keys=self.targets)


Rows = TypeVar("Rows", UserBatch, Candidates)


def _each_tensor(whole: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    changed: dict[str, Any] = {}
    for field in fields(whole):
        value = getattr(whole, field.name)
        changed[field.name] = {k: change(v) for k, v in value.items()} if isinstance(value, dict) else change(value)
    return type(whole)(**changed)
