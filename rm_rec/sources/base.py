"""Base class of answer sources: a source folds events into a state of fixed size, or has none, and answers queries.

Suffixes: U user, S segment, B block, Q query of a block.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rm_rec.config.base import SourceSettings
from rm_rec.machines.base import State, StateTrace, after_last_event
from rm_rec.outside import name_settings
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Segments, Stretch


@dataclass(frozen=True)
class StatePart:
    """One named part of a user's state: its shape, its type in a model, and how it is stored.

    A float part is stored in the store's type, float16 by default, or as float32 if it is `exact`. An integer part is
    stored in its own type.

    >>> StatePart((31, 32)).bytes_at_rest, StatePart((31,), exact=True).bytes_at_rest
    (1984, 124)
    >>> StatePart((512,), torch.uint8).bytes_at_rest
    512
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    exact: bool = False

    @property
    def bytes_at_rest(self) -> int:
        """Bytes of one user's part if floats are stored as float16."""
        rounded = self.dtype.is_floating_point and not self.exact
        return math.prod(self.shape) * (2 if rounded else self.dtype.itemsize)


class AnswerSource(nn.Module, ABC):
    """Answers queries about users' histories, from a state of fixed size, from the recent raw events, or from both.

    A source with a state defines `state_parts`, `initial` and `fold`; every source defines `answer`. If a source has
    data that all users share, a query must be answered only from data older than its `queries.time`. A source that a
    config names is built from its settings and the sizes of vectors and segments:
    `Source(config, token_dim, segment_length)`. `rm_rec.testing.check_source` tests all these promises.

    >>> class HowMany(AnswerSource):
    ...     num_features = 1
    ...     def state_parts(self):
    ...         return {"events": StatePart((1,), torch.int64)}
    ...     def initial(self, num_users):
    ...         return {"events": torch.zeros(num_users, 1, dtype=torch.int64)}
    ...     def fold(self, state, segments):
    ...         counts = segments.valid.sum(dim=2)[..., None]  # [user, segment, 1]
    ...         return {"events": torch.cat([state["events"][:, None], counts], dim=1).cumsum(dim=1)}
    ...     def answer(self, queries, state, recent):
    ...         return state["events"][:, None].expand(-1, queries.time.shape[1], -1).float().log1p()
    >>> from rm_rec import Histories, MemoryConfig, UserMemory
    >>> memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4), sources={"count": HowMany()})
    >>> kept = memory.fold(memory.initial(1), Histories.padded(torch.randn(1, 10, 8), torch.arange(10)[None]))
    >>> kept.state["count_events"].tolist()  # two full segments; the rest waits in the window
    [[8]]
    """

    config_type: type[SourceSettings]  # the class of its settings, if a config can name it
    keys: tuple[str, ...] = ()  # names of the integer keys of events and targets that it reads

    def __init_subclass__(cls) -> None:
        """Set the `kind` of the source's settings to its class path."""
        super().__init_subclass__()
        name_settings(cls)

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Size of an answer."""

    @property
    def attended(self) -> list[slice]:
        """Slices of an answer that are vectors of size token_dim in the tokens' space, to compare with targets."""
        return []

    @property
    def needs_boundaries(self) -> bool:
        """Whether an answer depends on the boundary of a query, beyond the events that the query sees."""
        return bool(self.state_parts())

    def state_parts(self) -> dict[str, StatePart]:
        """Return the parts of a user's state by name; their size must not depend on how much was folded."""
        return {}

    def writing_modules(self) -> tuple[str, ...]:
        """Return the names of the submodules whose weights determine the state; "" is the whole module.

        The others only read: they can be trained further while memories that are built stay valid.
        """
        return ("",) if self.state_parts() else ()

    def initial(self, num_users: int) -> State:
        """Return the state of users with no history; the same at each call."""
        return {}

    def fold(self, state: State, segments: Segments) -> StateTrace:
        """Return the states before the first segment and after each one: [U, S + 1, ...].

        A segment is valid as a whole or not at all; one that is not leaves its user's state unchanged, bit by bit.
        """
        return {}

    def fold_last(self, state: State, segments: Segments) -> State:
        """Return the state after the last segment: the same as `fold` returns last, maybe for less work.

        Segments that are not valid must not cut off gradients through those before (see `after_last_event`).
        """
        return after_last_event(self.fold(state, segments), segments.valid)

    @abstractmethod
    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's state [B, ...] and the raw events of a stretch.

        A query sees its user's first `num_visible` events of the stretch, padding included. Of these, only the tail and
        the window's segments before the block's boundary are guaranteed to be present.
        """

    def penalty(
        self, queries: QueryBlocks, clicked: Bool[Tensor, "block query"], state: State, last: State
    ) -> Float[Tensor, ""] | None:
        """Return the weighted penalty that training adds to the loss of a stretch, or None.

        A penalty on queries is their mean, from the blocks' states [B, ...]; a penalty on states is on the last states
        of the stretch's users [U, ...].
        """
        return None


def states_at(trace: StateTrace, user: Int[Tensor, " asked"], boundary: Int[Tensor, " asked"]) -> State:
    """Select, from a trace, the states of the given users at the given boundaries."""
    if not trace:
        return {}
    num_boundaries = next(iter(trace.values())).shape[1]
    row = user * num_boundaries + boundary
    return {name: values.flatten(0, 1).index_select(0, row) for name, values in trace.items()}
