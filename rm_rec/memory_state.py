"""What is kept of users between a night's build and a day's scoring: states, and windows of raw recent events.

Suffixes: U user, W place of a window, E event of all users, D dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from rm_rec.errors import BatchError
from rm_rec.histories import TOKENS, Histories, take_column
from rm_rec.machines.base import State
from rm_rec.segments import Cut, Timeline
from rm_rec.time_bins import NUM_TIME_BINS, gap_bins, time_bins

_STATE, _COLUMN = "state.", "window."  # of names in `tensors`


@dataclass(frozen=True, kw_only=True)
class MemoryState:
    """The memories of some users: the state of each source of answers, and the last events as they were.

    A window's first places hold it, and what lies behind its end means nothing. Of an event a window keeps the time,
    the binned gap before it, and `window`: its keys [U, W], and its vector as TOKENS [U, W, D] where nothing embeds
    it anew. Every tensor has the user as first axis, so that it can be put anywhere, row by row.

    >>> from rm_rec import MemoryConfig, UserMemory
    >>> kept = UserMemory(MemoryConfig(token_dim=8, segment_length=4)).initial(2, keys=("item",))
    >>> sorted(kept.tensors())  # to be saved, with `safetensors.torch.save_file`, say
    ['last_time', 'num_events', 'state.count', 'state.sum', 'window.item', 'window_gap', 'window_time']
    >>> MemoryState.from_tensors(kept.tensors()).select(torch.tensor([1])).num_users
    1
    """

    state: State  # name -> [U, ...]
    num_events: Int[Tensor, " user"]  # all that ever were, folded or not
    last_time: Int[Tensor, " user"]  # of the last event; of no meaning where there is none
    window_time: Int[Tensor, "user place"]
    window_gap: Int[Tensor, "user place"]
    window: Mapping[str, Tensor]

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.num_events)

    def select(self, users: Int[Tensor, " chosen"]) -> "MemoryState":
        """Return the memories of some of the users, in the order given."""
        return MemoryState.from_tensors(
            {name: values.index_select(0, users) for name, values in self.tensors().items()}
        )

    def to(self, device: torch.device | str) -> "MemoryState":
        """Return the same memories on another device."""
        return MemoryState.from_tensors({name: values.to(device) for name, values in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by flat names, to be saved: with `safetensors.torch.save_file`, say."""
        flat = {f"{_STATE}{name}": values for name, values in self.state.items()}
        flat |= {"num_events": self.num_events, "last_time": self.last_time}
        flat |= {"window_time": self.window_time, "window_gap": self.window_gap}
        flat |= {f"{_COLUMN}{name}": values for name, values in self.window.items()}
        return {name: values.contiguous() for name, values in flat.items()}  # as safetensors wants them

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "MemoryState":
        """Make memories of what `tensors` returned; BatchError where a tensor is missing."""
        plain = ("num_events", "last_time", "window_time", "window_gap")
        missing = [name for name in plain if name not in tensors]
        if missing:
            raise BatchError(f"a memory state needs {', '.join(plain)}; found no {missing[0]}")

        def named(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}

        return cls(state=named(_STATE), window=named(_COLUMN), **{name: tensors[name] for name in plain})


def no_events(state: State, num_users: int, cut: Cut, keys: tuple[str, ...], device: torch.device) -> MemoryState:
    """Return the memories of users with no history: `state` is the initial one."""
    empty = torch.zeros(num_users, cut.places, dtype=torch.int64, device=device)
    zeros = torch.zeros(num_users, dtype=torch.int64, device=device)
    # Tensors of their own: those that share memory cannot be saved.
    return MemoryState(
        state=state,
        num_events=zeros,
        last_time=torch.zeros_like(zeros),
        window_time=empty,
        window_gap=torch.full_like(empty, NUM_TIME_BINS),
        window={name: torch.zeros_like(empty) for name in keys},
    )


def join(memory: MemoryState, new: Histories, cut: Cut, keys_read: tuple[str, ...]) -> Timeline:
    """Put new events behind the windows of the users that they belong to.

    Raises BatchError where the new events are older than what the memory holds, or have other keys than its window.
    """
    _check(memory, new)
    kept_U = cut.window_length(memory.num_events)
    places_W = torch.arange(memory.window_time.shape[1], device=kept_U.device)
    in_window_UW = places_W < kept_U[:, None]
    lengths_U = kept_U + new.lengths
    first_U = lengths_U.cumsum(0) - lengths_U
    # Where the windows' events go, then where the new ones go.
    behind_U = first_U + kept_U - new.first
    place_E = behind_U.repeat_interleave(new.lengths, output_size=len(new.time))
    place_E = place_E + torch.arange(len(new.time), device=kept_U.device)
    place = torch.cat([(first_U[:, None] + places_W)[in_window_UW], place_E])

    def joined(window: Tensor | None, added: Tensor) -> Tensor:
        whole = added.new_empty(len(place), *added.shape[1:])
        kept = added.new_zeros(0, *added.shape[1:]) if window is None else window[in_window_UW].to(added.dtype)
        whole[place] = torch.cat([kept, added])
        return whole

    columns = {name: joined(memory.window.get(name), values) for name, values in new.columns.items()}
    histories = Histories(
        lengths=lengths_U,
        time=joined(memory.window_time, new.time),
        tokens=columns.pop(TOKENS, None),
        keys=columns,
    )
    gap = joined(memory.window_gap, _gaps(memory, new))
    return Timeline(cut, histories, kept_U, cut.num_full(memory.num_events), keys_read, gap)


def remembered(memory: MemoryState, timeline: Timeline, state: State) -> MemoryState:
    """Return the memories after a timeline: `state`, and the timeline's last events."""
    assert timeline.gap is not None
    place_UW = timeline.last_places()
    events = timeline.histories
    last = (events.first + events.lengths - 1).clamp(min=0)
    return MemoryState(
        state=state,
        num_events=memory.num_events + events.lengths - timeline.num_window,
        last_time=torch.where(events.lengths > timeline.num_window, take_column(events.time, last), memory.last_time),
        window_time=take_column(events.time, place_UW),
        window_gap=take_column(timeline.gap, place_UW),
        window={name: take_column(values, place_UW) for name, values in events.columns.items()},
    )


def _check(memory: MemoryState, new: Histories) -> None:
    if memory.num_users != new.num_users:
        raise BatchError(f"there are memories of {memory.num_users} users, but histories of {new.num_users}")
    if new.time.device.type != "cpu":  # looking at values would wait for the device
        return
    if not bool((memory.num_events > 0).any()):
        return
    if memory.window.keys() != new.columns.keys():
        raise BatchError(
            f"the memories keep {_shown(memory.window)} of each event, these histories have {_shown(new.columns)}"
        )
    if not len(new.time):
        return
    begins = new.time[new.first.clamp(max=len(new.time) - 1)]
    late = (new.lengths > 0) & (memory.num_events > 0) & (begins < memory.last_time)
    if bool(late.any()):
        user = int(late.nonzero()[0])
        raise BatchError(
            f"the first new event of user {user} is of {int(begins[user])}, but its memory holds one of "
            f"{int(memory.last_time[user])}; fold events in the order of time, or build the user anew"
        )


def _shown(columns: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(name.removeprefix(".") for name in columns)) or "nothing"


def _gaps(memory: MemoryState, new: Histories) -> Int[Tensor, " event"]:
    """Bin the time since each new event's predecessor; a user's first new event may have one in its memory."""
    gaps = gap_bins(new.time, new.lengths)
    follows = (memory.num_events > 0) & (new.lengths > 0)
    place = new.first[follows]
    gaps[place] = time_bins(new.time[place] - memory.last_time[follows])
    return gaps
