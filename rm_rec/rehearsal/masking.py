"""Which events of fragments are masked.

Suffixes: F fragment, B event of a fragment, M masked event of a fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Places in fragments, in random order: those that are masked, and those that show."""

    masked: Int[Tensor, "fragment masked"]
    shown: Int[Tensor, "fragment shown"]

    @property
    def is_masked(self) -> Bool[Tensor, "fragment event"]:
        """Say of each place whether it is masked."""
        num_fragments, length = len(self.masked), self.masked.shape[1] + self.shown.shape[1]
        none = torch.zeros(num_fragments, length, dtype=torch.bool, device=self.masked.device)
        return none.scatter_(1, self.masked, True)


def draw_masking(num_fragments: int, length: int, num_masked: int, generator: torch.Generator) -> Masking:
    """Draw which events of each fragment are masked, each as likely; on the generator's device."""
    order_FB = torch.rand(num_fragments, length, generator=generator, device=generator.device).argsort(dim=1)
    return Masking(order_FB[:, :num_masked], order_FB[:, num_masked:])


def at_places(vectors: Float[Tensor, "fragment event dim"], places: Int[Tensor, "fragment place"]) -> Tensor:
    """Pick some of each fragment's vectors: [F, places, D]."""
    return vectors.gather(1, _for_each_number(places, vectors))


def replaced(
    vectors: Float[Tensor, "fragment event dim"],
    places: Int[Tensor, "fragment place"],
    others: Float[Tensor, "fragment place dim"],
) -> Float[Tensor, "fragment event dim"]:
    """Put other vectors in some of each fragment's places."""
    return vectors.scatter(1, _for_each_number(places, vectors), others)


def _for_each_number(places: Tensor, vectors: Tensor) -> Tensor:
    return places[..., None].expand(-1, -1, vectors.shape[2])
