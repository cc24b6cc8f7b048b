"""The contract of every memory machine.

A state is named tensors with the user as first axis. `write` is pure: it returns a new state and changes nothing.
Suffixes: U user, S segment, N event of a segment, D dim, K slot.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rm_rec.config.base import MachineSettings
from rm_rec.outside import name_settings

State = dict[str, Tensor]  # name -> [U, ...]
StateTrace = dict[str, Tensor]  # name -> [U, S + 1, ...]: the state before the first segment and after each
StateSpec = dict[str, tuple[int, ...]]  # name -> shape of one user's part, float32


@dataclass(frozen=True)
class Slots:
    """What a reader, or rehearsal, can attend to; a slot that is not valid holds nothing yet.

    >>> slots = Slots(keys=torch.zeros(2, 3, 8), values=torch.zeros(2, 3, 8), valid=torch.ones(2, 3, dtype=torch.bool))
    >>> slots.log_weight is None  # all weigh alike
    True
    """

    keys: Float[Tensor, "user slot key_dim"]
    values: Float[Tensor, "user slot value_dim"]
    valid: Bool[Tensor, "user slot"]
    log_weight: Float[Tensor, "user slot"] | None = None  # a reader adds it to its logits; None: all weigh alike


class MemoryMachine(nn.Module, ABC):
    """Folds segments of events into a state of fixed size that a reader can attend to.

    It is built from its settings and the size of an event's vector: `Machine(config, token_dim)`. A machine has a
    `write` or a `scan`; the other follows. `rm_rec.testing.check_machine` holds one to all that is promised.

    >>> class LastEvent(MemoryMachine):
    ...     def __init__(self, config, token_dim):
    ...         super().__init__()
    ...         self.slot_dim = token_dim
    ...     def state_spec(self):
    ...         return {"last": (self.slot_dim,), "seen": (1,)}
    ...     def initial(self, num_users):
    ...         return {name: torch.zeros(num_users, *shape) for name, shape in self.state_spec().items()}
    ...     def write(self, state, segment, valid):  # segment [user, event, dim], valid [user, event]
    ...         there = valid.any(dim=1, keepdim=True)
    ...         place = valid.shape[1] - 1 - valid.flip(1).int().argmax(dim=1)
    ...         last = segment[torch.arange(len(segment)), place]
    ...         return {"last": torch.where(there, last, state["last"]), "seen": torch.where(there, 1.0, state["seen"])}
    ...     def slots(self, state):
    ...         one = state["last"][:, None]  # [user, slot, dim]
    ...         return Slots(keys=one, values=one, valid=state["seen"] > 0)
    >>> machine = LastEvent(None, token_dim=2)
    >>> events = torch.arange(8.0).view(1, 2, 2, 2)  # [user, segment, event, dim]
    >>> trace = machine.scan(machine.initial(1), events, torch.tensor([[[True, True], [False, False]]]))
    >>> trace["last"].tolist()  # before the first segment, and after each
    [[[0.0, 0.0], [2.0, 3.0], [2.0, 3.0]]]
    """

    config_type: type[MachineSettings]  # what its settings are
    slot_dim: int  # size of a slot's key and value
    exact_parts: tuple[str, ...] = ()  # parts of a state that are stored as float32 even where others are float16
    size_setting: str | None = "num_slots"  # the setting that a state's size grows with; None: it is fixed

    def __init_subclass__(cls) -> None:
        """Raise TypeError for a machine with neither `write` nor `scan`, which would call each other for ever."""
        super().__init_subclass__()
        name_settings(cls)
        if cls.write is MemoryMachine.write and cls.scan is MemoryMachine.scan:
            raise TypeError(f"{cls.__name__} has neither write nor scan: how does it fold a segment into its state?")

    @abstractmethod
    def state_spec(self) -> StateSpec:
        """Say what a state holds: it does not depend on how much was written."""

    @abstractmethod
    def initial(self, num_users: int) -> State:
        """Return the state of users with no history; the same at each call."""

    def write(self, state: State, segment: Float[Tensor, "user event dim"], valid: Bool[Tensor, "user event"]) -> State:
        """Fold one segment into each user's state; users without a valid event keep theirs, bit by bit."""
        return last_state(self.scan(state, segment[:, None], valid[:, None]))

    @abstractmethod
    def slots(self, state: State) -> Slots:
        """Show the state as slots."""

    def penalty(self, state: State) -> Float[Tensor, ""] | None:
        """Return what training adds to the loss for states like these, weighted and averaged over users; None: nothing.

        It is for a machine whose source has a regulariser of its memory.
        """
        return None

    def scan(
        self,
        state: State,
        segments: Float[Tensor, "user segment event dim"],
        valid: Bool[Tensor, "user segment event"],
    ) -> StateTrace:
        """Return the state at every boundary, those of the loop over `write`."""
        states = [state]
        for index in range(segments.shape[1]):
            states.append(self.write(states[-1], segments[:, index], valid[:, index]))
        return stack_states(states)


def stack_states(states: list[State]) -> StateTrace:
    """Lay states of successive boundaries side by side."""
    return {name: torch.stack([state[name] for state in states], dim=1) for name in states[0]}


def last_state(trace: StateTrace) -> State:
    """Return the state after the last segment."""
    return {name: values[:, -1] for name, values in trace.items()}
