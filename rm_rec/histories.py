"""The inputs of a memory: histories of events, and queries about them, as vectors, times and optional integer keys.

Suffixes: U user, E event (of all users, user after user), Q query, D dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from rm_rec.errors import BatchError


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Events of some users, user after user, each user's in time order.

    User u owns the next `lengths[u]` rows of the other tensors. `tokens` are the events' vectors; they may be left out
    for methods that take an `embed` function. `keys` are named integers of each event: ids to embed, and ids that
    answer sources count by. Raises BatchError if the tensors' rows do not agree, or if a user's times are not sorted.

    >>> Histories(lengths=torch.tensor([2, 1]), time=torch.tensor([5, 9, 7]), tokens=torch.zeros(3, 8)).num_users
    2
    """

    lengths: Int[Tensor, " user"]
    time: Int[Tensor, " event"]
    tokens: Float[Tensor, "event dim"] | None = None
    keys: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [E] int64

    def __post_init__(self) -> None:
        expect_integers("lengths", self.lengths)
        expect_integers("time", self.time)
        for name, values in self.columns.items():
            expect_rows(name, values, len(self.time), "as many as time")
        for name, values in self.keys.items():
            expect_integers(f"keys[{name!r}]", values)
            if "." in name:
                raise BatchError(f"a key is called {name!r}; use a name without dots")
        if self.time.device.type != "cpu":  # checking values would wait for the device
            return
        if len(self.lengths) and int(self.lengths.min()) < 0:
            raise BatchError(f"lengths has {int(self.lengths.min())}, expected 0 or more")
        expect_rows("time", self.time, int(self.lengths.sum()), "the sum of lengths")
        follows = torch.ones(max(len(self.time) - 1, 0), dtype=torch.bool)
        starts = self.first[(self.lengths > 0) & (self.first > 0)]
        follows[starts - 1] = False
        wrong = (self.time[1:] < self.time[:-1]) & follows
        if bool(wrong.any()):
            event = int(wrong.nonzero()[0]) + 1
            raise BatchError(
                f"time of event {event} is {int(self.time[event])}, earlier than its user's event before "
                f"({int(self.time[event - 1])}); sort each user's events by time"
            )

    @classmethod
    def padded(
        cls,
        tokens: Float[Tensor, "user event dim"],
        time: Tensor,
        lengths: Tensor | None = None,
        keys: Mapping[str, Tensor] | None = None,
    ) -> "Histories":
        """Make histories of tensors padded at the end: tokens [U, N, D], time [U, N] and keys [U, N].

        `lengths` [U] are the users' numbers of events, all N by default.

        >>> Histories.padded(torch.zeros(2, 3, 8), torch.arange(6).view(2, 3), torch.tensor([3, 1])).time.tolist()
        [0, 1, 2, 3]
        """
        if lengths is None:
            lengths = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        for name, values in {"time": time, **(keys or {})}.items():
            if values.shape != tokens.shape[:2]:
                raise BatchError(f"{name} has shape {tuple(values.shape)}, expected {tuple(tokens.shape[:2])}")
        if tokens.device.type == "cpu" and len(lengths) and int(lengths.max()) > tokens.shape[1]:
            raise BatchError(f"lengths has {int(lengths.max())}, but histories are padded to {tokens.shape[1]} events")
        real = torch.arange(tokens.shape[1], device=lengths.device) < lengths[:, None]
        return cls(
            lengths=lengths,
            time=time[real],
            tokens=tokens[real],
            keys={name: values[real] for name, values in (keys or {}).items()},
        )

    @property
    def num_users(self) -> int:
        """Number of users, with events or without."""
        return len(self.lengths)

    @property
    def first(self) -> Int[Tensor, " user"]:
        """Index of each user's first event."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def columns(self) -> dict[str, Tensor]:
        """All columns of an event except its time: its keys, and its vector as TOKENS."""
        return dict(self.keys) if self.tokens is None else {**self.keys, TOKENS: self.tokens}


BEFORE_ALL = torch.iinfo(torch.int64).min  # a time earlier than any event
_IN_PARTS = "taken_in_parts"  # an attribute of leaves marked by `to_be_taken_in_parts`
TOKENS = ".tokens"  # name of the column of events' vectors; names of keys have no dots


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries about histories: each asks about one target, for one user, at one time.

    A query sees the first `num_earlier` of its user's events, or all of them if `num_earlier` is None. Raises
    BatchError if the tensors' rows do not agree.

    >>> Queries(tokens=torch.zeros(2, 8), user=torch.tensor([0, 0]), time=torch.tensor([7, 9])).num_earlier is None
    True
    """

    tokens: Float[Tensor, "query dim"]
    user: Int[Tensor, " query"]
    time: Int[Tensor, " query"]
    num_earlier: Int[Tensor, " query"] | None = None
    keys: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [Q] int64

    def __post_init__(self) -> None:
        integers = {"user": self.user, "time": self.time, **{f"keys[{n!r}]": v for n, v in self.keys.items()}}
        if self.num_earlier is not None:
            integers["num_earlier"] = self.num_earlier
        for name, values in integers.items():
            expect_integers(name, values)
            expect_rows(name, values, len(self.tokens), "as many as tokens")


def check_times(queries: Queries, newest_Q: Tensor) -> None:
    """Raise BatchError for a query whose time is not later than `newest_Q`, the newest event that it sees.

    Values are checked on the CPU only: elsewhere that would wait for the device.
    """
    if queries.time.device.type != "cpu" or not len(queries.user):
        return
    early = queries.time <= newest_Q
    if bool(early.any()):
        row = int(early.nonzero()[0])
        raise BatchError(
            f"time of query {row} is {int(queries.time[row])}, but it sees an event of time {int(newest_Q[row])}: a "
            "query must be later than the events it sees"
        )


def newest_seen(histories: Histories, queries: Queries, before_U: Tensor | None = None) -> Tensor:
    """Return the time of the newest event that each query sees [Q]; BEFORE_ALL if it sees none.

    `before_U` are the times of users' newest events before these histories, if the histories continue memories. Raises
    BatchError for a query of an unknown user, and if `num_earlier` is larger than the number of a user's events.
    """
    check_users(queries, histories.num_users)
    newest = torch.full_like(queries.time, BEFORE_ALL) if before_U is None else before_U[queries.user]
    available = histories.lengths[queries.user]
    seen = available
    if queries.num_earlier is not None:
        seen = queries.num_earlier
        wrong = (seen < 0) | (seen > available)
        if wrong.device.type == "cpu" and bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise BatchError(
                f"num_earlier of query {row} is {int(seen[row])}, expected 0 to {int(available[row])}: its user's "
                "number of events"
            )
    last = (histories.first[queries.user] + seen - 1).clamp(min=0)
    return torch.where(seen > 0, take_column(histories.time, last), newest)


def check_users(queries: Queries, num_users: int) -> None:
    """Raise BatchError for a query of an unknown user; checked on the CPU only."""
    if queries.time.device.type != "cpu" or not len(queries.user):
        return
    least, most = (int(bound) for bound in torch.aminmax(queries.user))
    if least < 0 or most >= num_users:
        raise BatchError(f"user of the queries goes from {least} to {most}, expected 0 to {num_users - 1}")


def take(rows: Float[Tensor, "row dim"], index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
    """Select rows by index; the gradient is sparse for a leaf marked by `to_be_taken_in_parts`."""
    if getattr(rows, _IN_PARTS, False):
        return functional.embedding(index, rows, sparse=True)
    return take_column(rows, index)


def to_be_taken_in_parts(leaf: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Mark a leaf of the graph so that `take` gives it sparse gradients.

    For a leaf whose rows are taken part by part, each part with its own backward pass: a dense gradient would be as
    large as the whole leaf for each part.
    """
    if leaf.requires_grad and leaf.dim() == 2 and leaf.numel():
        setattr(leaf, _IN_PARTS, True)
    return leaf


def take_column(rows: Tensor, index: Int[Tensor, "*shape"]) -> Tensor:
    """Select rows of any shape by index; zeros if there are no rows, since padding has index 0 even then."""
    if not len(rows):
        return rows.new_zeros(*index.shape, *rows.shape[1:])
    return rows.index_select(0, index.flatten()).view(*index.shape, *rows.shape[1:])


def expect_integers(name: str, values: Tensor) -> None:
    """Raise BatchError if values are not int64: as floats, times lose seconds and ids collide."""
    if values.dtype != torch.int64:
        raise BatchError(f"{name} is {str(values.dtype).removeprefix('torch.')}, expected int64")


def expect_rows(name: str, values: Tensor, count: int, reason: str) -> None:
    """Raise BatchError if a tensor does not have `count` rows; `reason` says where the count comes from."""
    if len(values) != count:
        raise BatchError(f"{name} has {len(values)} rows, expected {count} ({reason})")
