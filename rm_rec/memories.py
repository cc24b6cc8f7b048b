"""What is kept of users between a night's build and a day's scoring: states, and windows of raw recent events.

Suffixes: U user, W place of a window, E event of all users, I candidate of all users.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rm_rec.machines.base import State
from rm_rec.segments import NUM_TIME_BINS, gap_bins, time_bins


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events of some users, user after user, each user's in time order; ids are embedding rows."""

    lengths: Int[Tensor, " user"]
    time: Int[Tensor, " event"]
    features: dict[str, Tensor]  # feature -> [E]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Items to score for some users; ids are embedding rows."""

    user: Int[Tensor, " candidate"]  # place among the memories
    time: Int[Tensor, " candidate"]
    targets: dict[str, Tensor]  # feature -> [I]
    context: dict[str, Tensor]  # feature -> [I]
    context_dense: Tensor  # [I, number of dense context features]

    def select(self, rows: Int[Tensor, " chosen"], user: Int[Tensor, " user"]) -> "Candidates":
        """Return some of the candidates, for users that lie at other places: user[u] is where user u's lies now."""
        return Candidates(
            user=user[self.user.index_select(0, rows)],
            time=self.time.index_select(0, rows),
            targets={name: ids.index_select(0, rows) for name, ids in self.targets.items()},
            context={name: ids.index_select(0, rows) for name, ids in self.context.items()},
            context_dense=self.context_dense.index_select(0, rows),
        )


@dataclass(frozen=True, kw_only=True)
class UserMemories:
    """The memories of some users; a window's first places hold it, and what lies behind its end means nothing."""

    state: State  # name -> [U, ...]
    num_events: Int[Tensor, " user"]  # all that ever were, folded or not
    last_time: Int[Tensor, " user"]  # of the last event; of no meaning where there is none
    window_time: Int[Tensor, "user place"]
    window_gap: Int[Tensor, "user place"]  # binned time since the event before
    window_features: dict[str, Tensor]  # feature -> [U, W]

    def select(self, users: Int[Tensor, " chosen"]) -> "UserMemories":
        """Return the memories of some of the users, in the order given."""
        return UserMemories(
            state={name: values.index_select(0, users) for name, values in self.state.items()},
            num_events=self.num_events.index_select(0, users),
            last_time=self.last_time.index_select(0, users),
            window_time=self.window_time.index_select(0, users),
            window_gap=self.window_gap.index_select(0, users),
            window_features={name: ids.index_select(0, users) for name, ids in self.window_features.items()},
        )


@dataclass(frozen=True)
class Shape:
    """How histories are cut: a window is the tail and the last full segments, `num_segments` of them at most."""

    segment_length: int
    num_segments: int

    @property
    def window_events(self) -> int:
        """The most events that a window can hold."""
        return (self.num_segments + 1) * self.segment_length - 1

    @property
    def places(self) -> int:
        """How many places a window is laid out in: whole segments, so one more than it can hold."""
        return (self.num_segments + 1) * self.segment_length

    def window_length(self, num_events: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Count the events of each user's window."""
        return num_events % self.segment_length + self.segment_length * self.num_full(num_events)

    def num_full(self, num_events: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Count the full segments, folded already, of each user's window."""
        return (num_events // self.segment_length).clamp(max=self.num_segments)


@dataclass(frozen=True)
class Joined:
    """Each user's window with what came after it, laid end to end: the events that a fold needs, and the next window.

    The first user's come first; `first[u]` says where user u's begin.
    """

    time: Int[Tensor, " event"]
    gap: Int[Tensor, " event"]
    features: dict[str, Tensor]
    first: Int[Tensor, " user"]
    lengths: Int[Tensor, " user"]

    @classmethod
    def of(cls, memories: UserMemories, events: Events, shape: Shape) -> "Joined":
        """Put new events behind the windows of the users that they belong to."""
        kept_U = shape.window_length(memories.num_events)
        width = memories.window_time.shape[1]
        in_window_UW = torch.arange(width, device=kept_U.device) < kept_U[:, None]
        lengths_U = kept_U + events.lengths
        first_U = lengths_U.cumsum(0) - lengths_U
        # Where the windows' events go, then where the new ones go.
        place_UW = first_U[:, None] + torch.arange(width, device=kept_U.device)
        behind_U = first_U + kept_U - (events.lengths.cumsum(0) - events.lengths)
        count = len(events.time)
        place_E = behind_U.repeat_interleave(events.lengths, output_size=count)
        place_E = place_E + torch.arange(count, device=kept_U.device)
        place = torch.cat([place_UW[in_window_UW], place_E])

        def join(window: Tensor, new: Tensor) -> Tensor:
            joined = torch.empty(len(place), dtype=new.dtype, device=new.device)
            joined[place] = torch.cat([window[in_window_UW].to(new.dtype), new])
            return joined

        return cls(
            time=join(memories.window_time, events.time),
            gap=join(memories.window_gap, _gaps(memories, events)),
            features={name: join(memories.window_features[name], ids) for name, ids in events.features.items()},
            first=first_U,
            lengths=lengths_U,
        )

    def places(
        self, start: Int[Tensor, " user"], width: int, end: Int[Tensor, " user"]
    ) -> tuple[Int[Tensor, "user place"], Bool[Tensor, "user place"]]:
        """Index `width` events of each user from its `start`-th on; those at or behind its `end`-th are not valid."""
        within = start[:, None] + torch.arange(width, device=start.device)
        valid = within < end[:, None]
        return torch.where(valid, self.first[:, None] + within, 0), valid


def _gaps(memories: UserMemories, events: Events) -> Int[Tensor, " event"]:
    """Bin the time since each new event's predecessor; a user's first new event may have one in its memory."""
    gaps = gap_bins(events.time, events.lengths)
    first = events.lengths.cumsum(0) - events.lengths
    follows = (memories.num_events > 0) & (events.lengths > 0)
    place = first[follows]
    gaps[place] = time_bins(events.time[place] - memories.last_time[follows])
    return gaps


def no_memories(
    state: State, num_users: int, shape: Shape, features: tuple[str, ...], device: torch.device
) -> UserMemories:
    """Return the memories of users with no history: `state` is the initial one."""
    empty = torch.zeros(num_users, shape.places, dtype=torch.int64, device=device)
    zeros = torch.zeros(num_users, dtype=torch.int64, device=device)
    return UserMemories(
        state=state,
        num_events=zeros,
        last_time=zeros,
        window_time=empty,
        window_gap=torch.full_like(empty, NUM_TIME_BINS),
        window_features=dict.fromkeys(features, empty),
    )
