"""Masking of fragments' events.

Suffixes: F fragment, B event of a fragment, M masked event of a fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Positions in fragments, in random order: the masked ones and the unmasked ones."""

    masked: Int[Tensor, "fragment masked"]
    shown: Int[Tensor, "fragment shown"]

    @property
    def is_masked(self) -> Bool[Tensor, "fragment event"]:
        """Whether each position is masked."""
        num_fragments, length = len(self.masked), self.masked.shape[1] + self.shown.shape[1]
        none = torch.zeros(num_fragments, length, dtype=torch.bool, device=self.masked.device)
        return none.scatter_(1, self.masked, True)


def draw_masking(num_fragments: int, length: int, num_masked: int, generator: torch.Generator) -> Masking:
    """Draw the masked events of each fragment uniformly, on the generator's device."""
    order_FB = torch.rand(num_fragments, length, generator=generator, device=generator.device).argsort(dim=1)
    return Masking(order_FB[:, :num_masked], order_FB[:, num_masked:])


def select_events(
    vectors: Float[Tensor, "fragment event dim"], positions: Int[Tensor, "fragment selected"]
) -> Float[Tensor, "fragment selected dim"]:
    """Return the vectors at some positions of each fragment."""
    return vectors.gather(1, _expanded(positions, vectors))


def replace_events(
    vectors: Float[Tensor, "fragment event dim"],
    positions: Int[Tensor, "fragment selected"],
    others: Float[Tensor, "fragment selected dim"],
) -> Float[Tensor, "fragment event dim"]:
    """Return the vectors with those at some positions of each fragment replaced by others."""
    return vectors.scatter(1, _expanded(positions, vectors), others)


def _expanded(positions: Tensor, vectors: Tensor) -> Tensor:
    return positions[..., None].expand(-1, -1, vectors.shape[2])
