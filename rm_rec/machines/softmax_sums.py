"""Sums of events by softmax weights, with a backward pass of its own: nearly all that an associative machine computes.

No tensor of the size of the weights (events x slots) is kept for the backward pass, which computes them again. Both
passes go over a few events at a time, so that what they compute stays in the processor's cache.
Suffixes: U user, S segment, N event of a segment, T event (S x N), K slot, D dim.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_EVENTS_AT_ONCE = 2048  # of a CPU: their vectors and weights take 0.5 MB
_LANES = 16  # matrix products and softmax are far slower for 31 columns than for 32


def softmax_sums(
    events: Float[Tensor, "user segment event dim"],
    address: Float[Tensor, "slot dim"],
    scale: Float[Tensor, "user segment slot"],
) -> tuple[Float[Tensor, "user slot dim"], Float[Tensor, "user slot"]]:
    """Return, for each slot, the sum of the events by their weights, and the sum of the weights.

    The weight of event x for slot k is the softmax over the slots of `x . address_k`, times its segment's `scale_k`.
    Gradients are computed once: there are none of second order.

    >>> events, address = torch.randn(2, 3, 4, 8), torch.randn(5, 8)
    >>> sums, counts = softmax_sums(events, address, torch.ones(2, 3, 5))
    >>> weight = (events @ address.T).softmax(dim=-1)
    >>> torch.allclose(sums, torch.einsum("usnk,usnd->ukd", weight, events), atol=1e-5)
    True
    >>> counts.shape
    torch.Size([2, 5])
    """
    num_slots = len(address)
    extra = -num_slots % _LANES
    # Additional slots have no weight: a softmax of -inf.
    bias = functional.pad(events.new_zeros(num_slots), (0, extra), value=-torch.inf)
    address, scale = functional.pad(address, (0, 0, 0, extra)), functional.pad(scale, (0, extra))
    sums, counts = _SoftmaxSums.apply(events, address, scale, bias)  # type: ignore[no-untyped-call]  # torch has no type
    return sums[:, :num_slots], counts[:, :num_slots]


class _SoftmaxSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, events: Tensor, address: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        num_users, dim = len(events), events.shape[-1]
        ctx.save_for_backward(events, address, scale, bias)
        sums = events.new_zeros(num_users, len(address), dim)
        counts = events.new_zeros(num_users, len(address))
        for users, segments in _pieces(events):
            events_UTD, scale_US1K = events[users, segments].flatten(1, 2), scale[users, segments][:, :, None]
            weight_UTK = _weights(events_UTD, address, bias)
            _by_segment(weight_UTK, scale_US1K).mul_(scale_US1K)
            sums[users].baddbmm_(weight_UTK.transpose(1, 2), events_UTD)
            counts[users].add_(weight_UTK.sum(dim=1))
        return sums, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor, of_counts: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        events, address, scale, bias = ctx.saved_tensors
        of_events, of_address, of_scale = torch.empty_like(events), torch.zeros_like(address), torch.empty_like(scale)
        for users, segments in _pieces(events):
            events_UTD, scale_US1K = events[users, segments].flatten(1, 2), scale[users, segments][:, :, None]
            weight_UTK = _weights(events_UTD, address, bias)
            # Gradient by the scaled weights, times the weights; then by the logits, through the softmax.
            of_logit_UTK = torch.baddbmm(of_counts[users][:, None], events_UTD, of_sums[users].transpose(1, 2))
            of_logit_UTK.mul_(weight_UTK)
            of_scale[users, segments] = _by_segment(of_logit_UTK, scale_US1K).sum(dim=2)
            _by_segment(of_logit_UTK, scale_US1K).mul_(scale_US1K)
            of_logit_UTK.addcmul_(weight_UTK, of_logit_UTK.sum(dim=-1, keepdim=True), value=-1.0)
            _by_segment(weight_UTK, scale_US1K).mul_(scale_US1K)
            of_events_UTD = torch.bmm(weight_UTK, of_sums[users])
            of_logit_TK = of_logit_UTK.flatten(0, 1)
            of_events_UTD.flatten(0, 1).addmm_(of_logit_TK, address)
            of_events[users, segments] = of_events_UTD.view_as(of_events[users, segments])
            of_address.addmm_(of_logit_TK.T, events_UTD.flatten(0, 1))
        return of_events, of_address, of_scale, None


def _weights(events_UTD: Tensor, address_KD: Tensor, bias_K: Tensor) -> Tensor:
    logit_TK = torch.addmm(bias_K, events_UTD.flatten(0, 1), address_KD.T)
    return logit_TK.softmax(dim=-1).view(*events_UTD.shape[:2], len(address_KD))


def _by_segment(values_UTK: Tensor, scale_US1K: Tensor) -> Tensor:
    return values_UTK.view(*scale_US1K.shape[:2], -1, values_UTK.shape[2])


def _pieces(events: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices of users and of segments with few enough events, if they are not those of one segment."""
    num_users, num_segments, length, _ = events.shape
    if not events.numel():
        return
    most = _EVENTS_AT_ONCE if events.device.type == "cpu" else num_users * num_segments * length
    users_at_once = max(1, most // (num_segments * length))
    segments_at_once = num_segments if num_segments * length <= most else max(1, most // length)
    for user in range(0, num_users, users_at_once):
        for segment in range(0, num_segments, segments_at_once):
            yield slice(user, user + users_at_once), slice(segment, segment + segments_at_once)
