"""Recurrences over users' real events: a unit that runs wherever padding lies, and what a loop begins with.

Suffixes: U user, S segment, T event of a stretch, D dim.
"""

import torch
from torch import Tensor, nn

from rm_rec.machines.base import State


def realigned(state: State) -> State:
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
