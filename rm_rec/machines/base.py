"""Base class of memory machines.

A state is a dictionary of named tensors whose first axis is the user. `write` is a pure function: it returns a new
state and does not change its arguments.
Suffixes: U user, S segment, N event of a segment, D dim, K slot.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.base import MachineSettings
from rm_rec.outside import name_settings

State = dict[str, Tensor]  # name -> [U, ...]
StateTrace = dict[str, Tensor]  # name -> [U, S + 1, ...]: the state before the first segment and after each
StateSpec = dict[str, tuple[int, ...]]  # name -> shape of one user's part, float32


@dataclass(frozen=True)
class Slots:
    """The slots of a state, which readers and rehearsal attend to; a slot that is not valid has no content yet.

    >>> slots = Slots(keys=torch.zeros(2, 3, 8), values=torch.zeros(2, 3, 8), valid=torch.ones(2, 3, dtype=torch.bool))
    >>> slots.log_weight is None  # equal weights
    True
    """

    keys: Float[Tensor, "user slot key_dim"]
    values: Float[Tensor, "user slot value_dim"]
    valid: Bool[Tensor, "user slot"]
    log_weight: Float[Tensor, "user slot"] | None = None  # a reader adds it to its logits; None: zeros


class MemoryMachine(nn.Module, ABC):
    """Folds segments of events into a state of fixed size that a reader can attend to.

    It is built from its settings and the size of an event's vector: `Machine(config, token_dim)`. A machine defines
    `write` or `scan`; the other one follows from it. `rm_rec.testing.check_machine` tests all that a machine promises.

    >>> class LastEvent(MemoryMachine):
    ...     def __init__(self, config, token_dim):
    ...         super().__init__()
    ...         self.slot_dim = token_dim
    ...     def state_spec(self):
    ...         return {"last": (self.slot_dim,), "seen": (1,)}
    ...     def initial(self, num_users):
    ...         return {name: torch.zeros(num_users, *shape) for name, shape in self.state_spec().items()}
    ...     def write(self, state, segment, valid):  # segment [user, event, dim], valid [user, event]
    ...         any_valid = valid.any(dim=1, keepdim=True)
    ...         index = valid.shape[1] - 1 - valid.flip(1).int().argmax(dim=1)
    ...         last = torch.where(any_valid, segment[torch.arange(len(segment)), index], state["last"])
    ...         return {"last": last, "seen": torch.where(any_valid, 1.0, state["seen"])}
    ...     def slots(self, state):
    ...         slot = state["last"][:, None]  # [user, slot, dim]
    ...         return Slots(keys=slot, values=slot, valid=state["seen"] > 0)
    >>> machine = LastEvent(None, token_dim=2)
    >>> events = torch.arange(8.0).view(1, 2, 2, 2)  # [user, segment, event, dim]
    >>> trace = machine.scan(machine.initial(1), events, torch.tensor([[[True, True], [False, False]]]))
    >>> trace["last"].tolist()  # the states before the first segment, and after each
    [[[0.0, 0.0], [2.0, 3.0], [2.0, 3.0]]]
    """

    config_type: type[MachineSettings]  # the class of its settings
    slot_dim: int  # size of a slot's key and value
    exact_parts: tuple[str, ...] = ()  # parts of a state that are stored as float32 even if others are float16
    batch_factor: int = 1  # how many times as many events as with other machines make the best batch
    size_setting: str | None = "num_slots"  # the setting that a state's size grows with; None: no setting

    def __init_subclass__(cls) -> None:
        """Raise TypeError for a machine that defines neither `write` nor `scan`, since each calls the other."""
        super().__init_subclass__()
        name_settings(cls)
        if cls.write is MemoryMachine.write and cls.scan is MemoryMachine.scan:
            raise TypeError(f"{cls.__name__} has neither write nor scan: define one of them, which folds segments")

    @abstractmethod
    def state_spec(self) -> StateSpec:
        """Return the shape of each part of a user's state; it must not depend on how much was written."""

    @abstractmethod
    def initial(self, num_users: int) -> State:
        """Return the state of users with no history, the same at each call."""

    def write(self, state: State, segment: Float[Tensor, "user event dim"], valid: Bool[Tensor, "user event"]) -> State:
        """Fold one segment into each user's state; users without a valid event keep their state, bit by bit."""
        return last_state(self.scan(state, segment[:, None], valid[:, None]))

    @abstractmethod
    def slots(self, state: State) -> Slots:
        """Return the slots of a state."""

    def penalty(self, state: State) -> Float[Tensor, ""] | None:
        """Return a weighted penalty on states, averaged over users, that training adds to the loss, or None.

        It is for machines whose paper has a regularisation term on the memory.
        """
        return None

    def scan(
        self,
        state: State,
        segments: Float[Tensor, "user segment event dim"],
        valid: Bool[Tensor, "user segment event"],
    ) -> StateTrace:
        """Return the states at every boundary: the same as a loop over `write`."""
        states = [state]
        for index in range(segments.shape[1]):
            states.append(self.write(states[-1], segments[:, index], valid[:, index]))
        return stack_states(states)

    def fold_last(
        self,
        state: State,
        segments: Float[Tensor, "user segment event dim"],
        valid: Bool[Tensor, "user segment event"],
    ) -> State:
        """Return the state after the last segment: the same as `scan` returns last, maybe for less work.

        Segments of padding must not cut off gradients through those before (see `after_last_event`).
        """
        return after_last_event(self.scan(state, segments, valid), valid)


def stack_states(states: list[State]) -> StateTrace:
    """Stack the states of successive boundaries."""
    return {name: torch.stack([state[name] for state in states], dim=1) for name in states[0]}


def after_last_event(trace: StateTrace, valid: Bool[Tensor, "user segment event"]) -> State:
    """Return each user's state after its last segment with an event: the last state, but for gradients.

    A machine may let gradients through the segment before a boundary alone, as Transformer-XL's does; segments of
    padding after a user's last event must not cut them off.
    """
    number_S = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    last_U = functional.pad(valid.any(dim=2) * number_S, (1, 0)).amax(dim=1)
    user_U = torch.arange(len(valid), device=valid.device)
    return {name: values[user_U, last_U] for name, values in trace.items()}


def last_state(trace: StateTrace) -> State:
    """Return the state after the last segment."""
    return {name: values[:, -1] for name, values in trace.items()}
