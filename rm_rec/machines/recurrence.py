"""Recurrences over users' real events: a loop with a step per event, and GRUs over padded sequences.

Suffixes: U user, S segment, T event of a stretch, D dim.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from rm_rec.machines.base import MemoryMachine, State, StateTrace, stack_states


class EventLoopMachine(MemoryMachine):
    """A machine whose state is updated event by event: NTM, DNC, MIMN.

    A subclass computes what does not depend on the state for all events at once, and the rest step by step.
    """

    batch_factor = 8  # a step costs nearly the same for a hundred users as for ten

    @abstractmethod
    def _inputs(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Return the inputs of all steps, [U, S * N, ...], computed from the segments [U, S, N, D]."""

    def _segment_inputs(self, state: State) -> Sequence[Tensor]:
        """Return further inputs of the steps of one segment, computed from the state at its start."""
        return ()

    @abstractmethod
    def _step(self, state: State, valid_U1: Tensor, *inputs: Tensor) -> State:
        """Return the state after one event, from the event's inputs followed by its segment's."""

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Compute the inputs of all steps at once; only the steps are a loop."""
        return stack_states(list(self._states(state, segments, valid)))

    def fold_last(self, state: State, segments: Tensor, valid: Tensor) -> State:
        """Do as `scan`, and keep no state but the last."""
        (last,) = deque(self._states(state, segments, valid), maxlen=1)
        return last

    def _states(self, state: State, segments: Tensor, valid: Tensor) -> Iterator[State]:
        inputs = self._inputs(state, segments.masked_fill(~valid[..., None], 0.0), valid)
        events = zip(valid.flatten(1, 2)[..., None].unbind(1), *(part.unbind(1) for part in inputs), strict=True)
        state = _contiguous_copy(state)
        yield state
        for _ in range(segments.shape[1]):
            segment_inputs = self._segment_inputs(state)
            for valid_U1, *event_inputs in islice(events, segments.shape[2]):
                state = self._step(state, valid_U1, *event_inputs, *segment_inputs)
            yield state


def _contiguous_copy(state: State) -> State:
    """Copy a state to new memory, so that alignment and strides are the same for every state.

    Matrix products may differ in the last bit with the alignment of their factors; a recurrence would amplify this.
    """
    return {name: values.clone(memory_format=torch.contiguous_format) for name, values in state.items()}


def real_events_first(segments: Tensor, valid: Tensor) -> Tensor:
    """Join each user's segments to one sequence [U, T, D], with the valid events in their order before all padding."""
    order = (~valid).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
    return select_rows(segments.masked_fill(~valid[..., None], 0.0).flatten(1, 2), order)


def select_rows(rows_UTD: Tensor, index_UT: Tensor) -> Tensor:
    """Select each user's rows by index [U, T]; an index beyond the last row selects the last row."""
    index_UT = index_UT.clamp(max=max(rows_UTD.shape[1] - 1, 0))
    return rows_UTD.gather(1, index_UT[..., None].expand(-1, -1, rows_UTD.shape[2]))


def run_gru(unit: nn.GRU, state_UD: Tensor, inputs_UTD: Tensor) -> Tensor:
    """Return the GRU's hidden states before the first input and after each, [U, T + 1, D].

    The first one is the given state, bit by bit.
    """
    if not inputs_UTD.shape[0] or not inputs_UTD.shape[1]:  # nn.GRU raises an error for empty inputs
        return state_UD[:, None].expand(-1, inputs_UTD.shape[1] + 1, -1)
    hidden_UTD, _ = unit(inputs_UTD, state_UD[None].contiguous())
    return torch.cat([state_UD[:, None], hidden_UTD], dim=1)


@torch.no_grad()
def initialise_to_add(weights: nn.GRU | nn.GRUCell, keep_bias: float, *, to_itself: bool) -> None:
    """Initialise a GRU so that its candidate state is tanh of the first dimensions of its input.

    With `to_itself` the previous hidden state is added to these. `keep_bias` is the bias of the update gate.
    """
    by_name = {name.removesuffix("_l0"): weight for name, weight in weights.named_parameters()}
    dim = weights.hidden_size
    keep, candidate = slice(dim, 2 * dim), slice(2 * dim, None)
    nn.init.eye_(by_name["weight_ih"][candidate])
    if to_itself:
        nn.init.eye_(by_name["weight_hh"][candidate])
    for name in ("bias_ih", "bias_hh"):
        by_name[name].zero_()
    by_name["bias_ih"][keep] = keep_bias
