"""A batch is users: each with all its events and all its impressions, so that training reads a user once.

Suffixes: U user, E event (of all users), I impression (of all users).
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rm_rec.config import FeatureSpace
from rm_rec.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class UserBatch:
    """Jagged events in time order and impressions, user after user; ids are embedding rows.

    User u owns the next `event_lengths[u]` events and the next `impression_lengths[u]` impressions. An impression's
    history is its user's first `num_earlier` events, and nothing else.
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
        for name in ("event_lengths", "impression_lengths"):
            lengths: Tensor = getattr(self, name)
            if len(lengths) and int(lengths.min()) < 0:
                raise BatchError(f"{name} has {int(lengths.min())}, expected 0 or more")
        num_events, num_impressions = int(self.event_lengths.sum()), int(self.impression_lengths.sum())
        _expect("impression_lengths", self.impression_lengths, len(self.event_lengths), "as many as event_lengths")
        _expect("event_time", self.event_time, num_events, "the sum of event_lengths")
        for name, ids in self.events.items():
            _expect(f"events[{name!r}]", ids, num_events, "the sum of event_lengths")
        per_impression = {
            "impression_time": self.impression_time,
            "num_earlier": self.num_earlier,
            "context_dense": self.context_dense,
            "label": self.label,
        }
        per_impression |= {f"targets[{name!r}]": ids for name, ids in self.targets.items()}
        per_impression |= {f"context[{name!r}]": ids for name, ids in self.context.items()}
        for name, values in per_impression.items():
            _expect(name, values, num_impressions, "the sum of impression_lengths")
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
        """How many users the batch has."""
        return len(self.event_lengths)

    @property
    def impression_user(self) -> Tensor:
        """[I] Which of the batch's users each impression belongs to."""
        users = torch.arange(self.num_users, device=self.event_lengths.device)
        return users.repeat_interleave(self.impression_lengths, output_size=len(self.num_earlier))

    def check(self, features: FeatureSpace) -> None:
        """Raise BatchError where the batch lacks a feature of the model or has an id beyond its table."""
        for where, names in (("events", features.events), ("targets", features.targets), ("context", features.context)):
            columns: dict[str, Tensor] = getattr(self, where)
            if set(columns) != set(names):
                raise BatchError(f"{where} has features {sorted(columns)}, the model expects {sorted(names)}")
            for name, ids in columns.items():
                if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= features.rows[name]):
                    raise BatchError(
                        f"{where}[{name!r}] has ids from {int(ids.min())} to {int(ids.max())}, "
                        f"the model's table has rows 0 to {features.rows[name] - 1}"
                    )
        if self.context_dense.shape[1] != features.num_context_dense:
            raise BatchError(
                f"context_dense has {self.context_dense.shape[1]} columns, the model expects "
                f"{features.num_context_dense}"
            )

    def to(self, device: torch.device | str) -> "UserBatch":
        """Return the same batch on another device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            is_dict = isinstance(value, dict)
            moved[field.name] = {k: v.to(device) for k, v in value.items()} if is_dict else value.to(device)
        return UserBatch(**moved)


def _expect(name: str, values: Tensor, length: int, what: str) -> None:
    if len(values) != length:
        raise BatchError(f"{name} has {len(values)} rows, expected {length} ({what})")
