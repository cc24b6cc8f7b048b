"""A sum of losses as one node of the autograd graph: each loss's own graph is freed before the next one is built."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rm_rec.histories import to_be_taken_in_parts

# Yields the loss of each stretch, computed from leaves in place of the vectors.
Losses = Callable[[Sequence[Tensor]], Iterable[Tensor]]


def sum_of_losses(losses: Losses, vectors: Sequence[Tensor], weights: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Return the sum of losses; gradients by `vectors` and `weights` are computed here, one loss after the other.

    `losses` is called with leaves in place of the vectors and yields one loss at a time. The graph of a loss is freed
    before the next loss is requested, so that memory use does not grow with the number of losses. The backward pass of
    the sum passes the summed gradients on at once: the vectors' look-up has one backward pass, and each weight gets one
    gradient, whatever the number of losses. So hooks, DistributedDataParallel and sharded look-ups see an ordinary
    training step.

    `weights` must contain all trained parameters that the losses depend on beside the vectors; the gradient of one that
    no loss depends on stays None. Under `torch.no_grad` only the sum is computed.

    >>> weight, vector = nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
    >>> def losses(leaves):
    ...     return (scale * (weight * leaves[0]).sum() for scale in (1, 2))
    >>> total = sum_of_losses(losses, [vector], [weight])
    >>> total.backward()
    >>> total.item(), weight.grad.tolist(), vector.grad.tolist()
    (6.0, [3.0, 3.0], [3.0, 3.0])
    """
    trained = [weight for weight in weights if weight.requires_grad]
    total: Tensor = _SumOfLosses.apply(  # type: ignore[no-untyped-call]  # torch does not type it
        losses, torch.is_grad_enabled(), len(vectors), *vectors, *trained
    )
    return total


class _SumOfLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Losses, with_gradient: bool, num_vectors: int, *tensors: Tensor) -> Tensor:
        vectors, weights = tensors[:num_vectors], tensors[num_vectors:]
        leaves = [to_be_taken_in_parts(vector.detach().requires_grad_(vector.requires_grad)) for vector in vectors]
        inputs = [*leaves, *weights]
        trained = [index for index, tensor in enumerate(inputs) if tensor.requires_grad]
        gradients: list[Tensor | None] = [None] * len(inputs)
        total = torch.zeros((), device=inputs[0].device) if inputs else torch.zeros(())
        with torch.set_grad_enabled(with_gradient):
            for loss in losses(leaves):
                total = total + loss.detach()
                if not loss.requires_grad:
                    continue
                of_loss = torch.autograd.grad(loss, [inputs[index] for index in trained], allow_unused=True)
                for index, gradient in zip(trained, of_loss, strict=True):
                    if gradient is not None:
                        gradients[index] = _added(gradients[index], gradient, inputs[index])
        ctx.gradients = gradients
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(None if gradient is None else gradient * of_total for gradient in ctx.gradients)


def _added(total: Tensor | None, gradient: Tensor, of: Tensor) -> Tensor:
    if not gradient.is_sparse:
        # A copy, since autograd may return one tensor twice, and rows are added in place below.
        return gradient.clone() if total is None else total + gradient
    total = torch.zeros_like(of) if total is None else total
    # A row that was selected several times occurs several times here.
    return total.index_add_(0, gradient._indices().squeeze(0), gradient._values())
