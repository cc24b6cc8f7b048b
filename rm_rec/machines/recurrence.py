"""Recurrences over users' real events: a loop that moves the state at each, a unit that runs wherever padding lies.

Suffixes: U user, S segment, T event of a stretch, D dim.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from rm_rec.machines.base import MemoryMachine, State, StateTrace, stack_states


class EventLoopMachine(MemoryMachine):
    """A machine whose state moves event by event: NTM, DNC, MIMN.

    A subclass finds for all events at once what does not depend on the state, and says what an event does.
    """

    @abstractmethod
    def _ahead(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Return what is known of all events of [U, S, N, D] beforehand: tensors of [U, S * N, ...]."""

    def _of_segment(self, state: State) -> Sequence[Tensor]:
        """Return what is found once a segment, from the state at its start."""
        return ()

    @abstractmethod
    def _step(self, state: State, valid_U1: Tensor, *given: Tensor) -> State:
        """Return the state after an event, given what was known ahead of it and what was found of its segment."""

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Find at once what can be; the rest is a loop."""
        ahead = self._ahead(state, segments.masked_fill(~valid[..., None], 0.0), valid)
        events = zip(valid.flatten(1, 2)[..., None].unbind(1), *(part.unbind(1) for part in ahead), strict=True)
        state = _realigned(state)
        states = [state]
        for _ in range(segments.shape[1]):
            of_segment = self._of_segment(state)
            for valid_U1, *given in islice(events, segments.shape[2]):
                state = self._step(state, valid_U1, *given, *of_segment)
            states.append(state)
        return stack_states(states)


def _realigned(state: State) -> State:
    """Copy a state to memory of its own, whose place and strides are the same for every state.

    Matrix products may differ in the last bit by where their factors lie; a recurrence would make that more.
    """
    return {name: values.clone(memory_format=torch.contiguous_format) for name, values in state.items()}


def real_events_first(segments: Tensor, valid: Tensor) -> Tensor:
    """Lay a user's segments in one row, [U, T, D], the real events before all padding and in their order."""
    order = (~valid).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
    return taken(segments.masked_fill(~valid[..., None], 0.0).flatten(1, 2), order)


def taken(rows_UTD: Tensor, index_UT: Tensor) -> Tensor:
    """Pick each user's rows; beyond the last, the last."""
    index_UT = index_UT.clamp(max=max(rows_UTD.shape[1] - 1, 0))
    return rows_UTD.gather(1, index_UT[..., None].expand(-1, -1, rows_UTD.shape[2]))


def path(unit: nn.GRU, state_UD: Tensor, inputs_UTD: Tensor) -> Tensor:
    """Return the unit's state before the first input and after each, [U, T + 1, D].

    What is before the first is the state that came in, bit by bit.
    """
    if not inputs_UTD.shape[0] or not inputs_UTD.shape[1]:  # which the unit refuses
        return state_UD[:, None].expand(-1, inputs_UTD.shape[1] + 1, -1)
    moved_UTD, _ = unit(inputs_UTD, state_UD[None].contiguous())
    return torch.cat([state_UD[:, None], moved_UTD], dim=1)


@torch.no_grad()
def begin_by_adding(weights: nn.GRU | nn.GRUCell, keep_bias: float, *, to_itself: bool) -> None:
    """Let a gated recurrent unit begin by adding its input's first numbers, as they are, to what it holds."""
    by_name = {name.removesuffix("_l0"): weight for name, weight in weights.named_parameters()}
    dim = weights.hidden_size
    keep, candidate = slice(dim, 2 * dim), slice(2 * dim, None)
    nn.init.eye_(by_name["weight_ih"][candidate])
    if to_itself:
        nn.init.eye_(by_name["weight_hh"][candidate])
    for name in ("bias_ih", "bias_hh"):
        by_name[name].zero_()
    by_name["bias_ih"][keep] = keep_bias
