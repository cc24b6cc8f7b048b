"""Users' memories between builds and scoring: states, and windows of raw recent events.

Suffixes: U user, W position in a window, E event of all users, D dim.
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
    """The memories of some users: the states of all answer sources, and windows of the last events.

    Windows are padded at the end with arbitrary values. For each event a window has the time, the binned time gap
    before it, and the columns in `window`: keys [U, W], and vectors as TOKENS [U, W, D] unless events are embedded anew
    from their keys. The first axis of every tensor is the user, so that memories can be stored row by row.

    >>> from rm_rec import MemoryConfig, UserMemory
    >>> kept = UserMemory(MemoryConfig(token_dim=8, segment_length=4)).initial(2, keys=("item",))
    >>> sorted(kept.tensors())  # can be saved with `safetensors.torch.save_file`, for example
    ['last_time', 'num_events', 'state.count', 'state.sum', 'window.item', 'window_gap', 'window_time']
    >>> MemoryState.from_tensors(kept.tensors()).select(torch.tensor([1])).num_users
    1
    """

    state: State  # name -> [U, ...]
    num_events: Int[Tensor, " user"]  # of the whole history, folded or not
    last_time: Int[Tensor, " user"]  # time of the last event; arbitrary if there are no events
    window_time: Int[Tensor, "user position"]
    window_gap: Int[Tensor, "user position"]
    window: Mapping[str, Tensor]

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.num_events)

    def select(self, users: Int[Tensor, " chosen"]) -> "MemoryState":
        """Return the memories of some of the users by index, in the order of `users`."""
        return MemoryState.from_tensors(
            {name: values.index_select(0, users) for name, values in self.tensors().items()}
        )

    def to(self, device: torch.device | str) -> "MemoryState":
        """Return the same memories on another device."""
        return MemoryState.from_tensors({name: values.to(device) for name, values in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by flat names, as `safetensors.torch.save_file` takes them."""
        flat = {f"{_STATE}{name}": values for name, values in self.state.items()}
        flat |= {"num_events": self.num_events, "last_time": self.last_time}
        flat |= {"window_time": self.window_time, "window_gap": self.window_gap}
        flat |= {f"{_COLUMN}{name}": values for name, values in self.window.items()}
        return {name: values.contiguous() for name, values in flat.items()}  # safetensors requires it

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "MemoryState":
        """Make memories from the tensors that `tensors` returned; raises BatchError if one is missing."""
        plain = ("num_events", "last_time", "window_time", "window_gap")
        missing = [name for name in plain if name not in tensors]
        if missing:
            raise BatchError(f"a memory state needs {', '.join(plain)}; found no {missing[0]}")

        def named(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}

        return cls(state=named(_STATE), window=named(_COLUMN), **{name: tensors[name] for name in plain})


def no_events(state: State, num_users: int, cut: Cut, keys: tuple[str, ...], device: torch.device) -> MemoryState:
    """Return the memories of users with no history; `state` is their initial state."""
    empty = torch.zeros(num_users, cut.window_positions, dtype=torch.int64, device=device)
    zeros = torch.zeros(num_users, dtype=torch.int64, device=device)
    # Separate tensors, since tensors that share memory cannot be saved.
    return MemoryState(
        state=state,
        num_events=zeros,
        last_time=torch.zeros_like(zeros),
        window_time=empty,
        window_gap=torch.full_like(empty, NUM_TIME_BINS),
        window={name: torch.zeros_like(empty) for name in keys},
    )


def join(memory: MemoryState, new: Histories, cut: Cut, keys_read: tuple[str, ...]) -> Timeline:
    """Append new events to the windows of their users.

    Raises BatchError if new events are older than a user's last event, or have other keys than the windows.
    """
    _check(memory, new)
    length_U = cut.window_length(memory.num_events)
    position_W = torch.arange(memory.window_time.shape[1], device=length_U.device)
    in_window_UW = position_W < length_U[:, None]
    lengths_U = length_U + new.lengths
    first_U = lengths_U.cumsum(0) - lengths_U
    # Indices, in the joined columns, of the windows' events and then of the new events.
    shift_U = first_U + length_U - new.first
    index_E = shift_U.repeat_interleave(new.lengths, output_size=len(new.time))
    index_E = index_E + torch.arange(len(new.time), device=length_U.device)
    index = torch.cat([(first_U[:, None] + position_W)[in_window_UW], index_E])

    def joined(window: Tensor | None, added: Tensor) -> Tensor:
        whole = added.new_empty(len(index), *added.shape[1:])
        before = added.new_zeros(0, *added.shape[1:]) if window is None else window[in_window_UW].to(added.dtype)
        whole[index] = torch.cat([before, added])
        return whole

    columns = {name: joined(memory.window.get(name), values) for name, values in new.columns.items()}
    histories = Histories(
        lengths=lengths_U,
        time=joined(memory.window_time, new.time),
        tokens=columns.pop(TOKENS, None),
        keys=columns,
    )
    gap = joined(memory.window_gap, _gaps(memory, new))
    return Timeline(cut, histories, length_U, cut.num_full(memory.num_events), keys_read, gap)


def remembered(memory: MemoryState, timeline: Timeline, state: State) -> MemoryState:
    """Return the memories after a timeline was folded: the new `state`, and windows of the timeline's last events."""
    assert timeline.gap is not None
    index_UW = timeline.next_window()
    events = timeline.histories
    last = (events.first + events.lengths - 1).clamp(min=0)
    return MemoryState(
        state=state,
        num_events=memory.num_events + events.lengths - timeline.num_window,
        last_time=torch.where(events.lengths > timeline.num_window, take_column(events.time, last), memory.last_time),
        window_time=take_column(events.time, index_UW),
        window_gap=take_column(timeline.gap, index_UW),
        window={name: take_column(values, index_UW) for name, values in events.columns.items()},
    )


def _check(memory: MemoryState, new: Histories) -> None:
    if memory.num_users != new.num_users:
        raise BatchError(f"there are memories of {memory.num_users} users, but histories of {new.num_users}")
    if new.time.device.type != "cpu":  # checking values would wait for the device
        return
    if not bool((memory.num_events > 0).any()):
        return
    if memory.window.keys() != new.columns.keys():
        raise BatchError(
            f"the memories keep {_shown(memory.window)} of each event, these histories have {_shown(new.columns)}; "
            "give histories with the same keys"
        )
    if not len(new.time):
        return
    first_time = new.time[new.first.clamp(max=len(new.time) - 1)]
    late = (new.lengths > 0) & (memory.num_events > 0) & (first_time < memory.last_time)
    if bool(late.any()):
        user = int(late.nonzero()[0])
        raise BatchError(
            f"the first new event of user {user} has time {int(first_time[user])}, earlier than the last event in its "
            f"memory ({int(memory.last_time[user])}); fold events in the order of time, or build this memory anew"
        )


def _shown(columns: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(name.removeprefix(".") for name in columns)) or "nothing"


def _gaps(memory: MemoryState, new: Histories) -> Int[Tensor, " event"]:
    """Return the binned time since each new event's predecessor, which may be the last event of the user's memory."""
    gaps = gap_bins(new.time, new.lengths)
    follows = (memory.num_events > 0) & (new.lengths > 0)
    index = new.first[follows]
    gaps[index] = time_bins(new.time[index] - memory.last_time[follows])
    return gaps
