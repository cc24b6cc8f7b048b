"""A loss over long histories as one node of the graph: each part's graph is freed before the next part's is made."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rm_rec.histories import to_be_taken_in_parts

# Yields the loss of each stretch, found from leaves that stand for the vectors.
Losses = Callable[[Sequence[Tensor]], Iterable[Tensor]]


def sum_of_losses(losses: Losses, vectors: Sequence[Tensor], weights: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Return the sum of losses whose gradients, of `vectors` and `weights`, were found one loss after the other.

    `losses` is called with leaves in place of the vectors, and yields a loss at a time; its graph is gone before it is
    asked for the next, so that memory does not grow with their number. A backward pass through the sum hands the
    gradients on at once: the vectors' look-up goes backward once, and each weight has one gradient, however many losses
    there were. So hooks, DistributedDataParallel and sharded look-ups see an ordinary step.

    `weights` are all that the losses depend on beside the vectors and that are trained; one that no loss reached keeps
    its gradient None. Without gradients it is the sum and no more.

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
    def forward(ctx: Any, losses: Losses, with_gradient: bool, num_vectors: int, *given: Tensor) -> Tensor:
        vectors, weights = given[:num_vectors], given[num_vectors:]
        leaves = [to_be_taken_in_parts(vector.detach().requires_grad_(vector.requires_grad)) for vector in vectors]
        inputs = [*leaves, *weights]
        wanted = [place for place, tensor in enumerate(inputs) if tensor.requires_grad]
        gradients: list[Tensor | None] = [None] * len(inputs)
        total = torch.zeros((), device=inputs[0].device) if inputs else torch.zeros(())
        with torch.set_grad_enabled(with_gradient):
            for loss in losses(leaves):
                total = total + loss.detach()
                if not loss.requires_grad:
                    continue
                found = torch.autograd.grad(loss, [inputs[place] for place in wanted], allow_unused=True)
                for place, gradient in zip(wanted, found, strict=True):
                    if gradient is not None:
                        gradients[place] = _added(gradients[place], gradient, inputs[place])
        ctx.gradients = gradients
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(None if gradient is None else gradient * of_total for gradient in ctx.gradients)


def _added(total: Tensor | None, gradient: Tensor, of: Tensor) -> Tensor:
    if not gradient.is_sparse:
        # A copy, since autograd may hand out one tensor twice, and rows are added in place below.
        return gradient.clone() if total is None else total + gradient
    total = torch.zeros_like(of) if total is None else total
    # Rows that were taken more than once add up.
    return total.index_add_(0, gradient._indices().squeeze(0), gradient._values())
