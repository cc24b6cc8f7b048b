"""Queries that read one state, side by side: by one matrix product rather than one each.

Suffixes: I query in its own order, B block, Q query of a block.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where queries lie in blocks, and where each one's answer is found again."""

    query: Int[Tensor, "block slot"]  # which query lies there; 0 where there is none
    place: Int[Tensor, " query"]  # where each query lies among block x slot
    in_order: bool = False  # the queries lie as they came, without a gap: nothing has to be moved

    def gather(self, values: Tensor) -> Tensor:
        """Lay [I, ...] out as [B, Q, ...]."""
        if self.in_order:
            return values.view(*self.query.shape, *values.shape[1:])
        flat = values.index_select(0, self.query.flatten())
        return flat.view(*self.query.shape, *values.shape[1:])

    def scatter(self, values: Tensor) -> Tensor:
        """Bring [B, Q, ...] back to [I, ...]."""
        if self.in_order:
            return values.flatten(0, 1)
        return values.flatten(0, 1).index_select(0, self.place)


@dataclass(frozen=True)
class QueryBlocks:
    """Queries laid out in blocks: those of a block share user and boundary, and so state and window."""

    user: Int[Tensor, " block"]
    boundary: Int[Tensor, " block"]  # of the stretch that is asked
    tokens: Float[Tensor, "block query dim"]
    num_visible: Int[Tensor, "block query"]  # so many of the stretch's first places a query may see
    time: Int[Tensor, "block query"]  # nothing of this time or later may answer
    keys: Mapping[str, Tensor]  # name -> [B, Q] int64
    layout: Layout
    recent: Float[Tensor, "block query dim"] | None = None  # what the window's attention answered, where it has

    def __len__(self) -> int:
        """Count the blocks."""
        return len(self.user)


# Relative cost of a block beside its queries: its state and window are gathered and projected.
_BLOCK_COST = 16
_WIDTHS = [2**power for power in range(9)]


def group_queries(
    tokens: Float[Tensor, "query dim"],
    user: Int[Tensor, " query"],
    boundary: Int[Tensor, " query"],
    num_visible: Int[Tensor, " query"],
    time: Int[Tensor, " query"],
    keys: Mapping[str, Tensor],
) -> QueryBlocks:
    """Group queries by (user, boundary) into blocks, of the width that wastes least; large groups take several."""
    layout = lay_out(user, boundary)
    first = layout.query[:, 0]
    return QueryBlocks(
        user=user.index_select(0, first),
        boundary=boundary.index_select(0, first),
        tokens=layout.gather(tokens),
        num_visible=layout.gather(num_visible),
        time=layout.gather(time),
        keys={name: layout.gather(values) for name, values in keys.items()},
        layout=layout,
    )


def lay_out(user: Int[Tensor, " query"], boundary: Int[Tensor, " query"]) -> Layout:
    """Say where queries lie when those of one user and boundary are side by side."""
    key = user * (int(boundary.max()) + 1 if len(boundary) else 1) + boundary
    if 0 < len(key) <= _WIDTHS[-1] and bool((key == key[0]).all()):  # one user's candidates: what is served online
        every = torch.arange(len(key), device=key.device)
        return Layout(every[None], every, in_order=True)
    key, order = torch.sort(key, stable=True)
    _, counts = torch.unique_consecutive(key, return_counts=True)
    # Powers of two, and the largest group's size: where all have one size, as in serving, nothing is wasted.
    widths = torch.tensor([*_WIDTHS, min(int(counts.max()), _WIDTHS[-1]) if len(counts) else 1], device=key.device)
    costs = ((counts + widths[:, None] - 1) // widths[:, None]).sum(dim=1) * (widths + _BLOCK_COST)
    width = int(widths[costs.argmin()])

    blocks = (counts + width - 1) // width
    rank = torch.arange(len(key), device=key.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    first_place = (blocks.cumsum(0) - blocks) * width  # a group's blocks follow each other, so its places do
    place_sorted = first_place.repeat_interleave(counts) + rank
    num_blocks = int(blocks.sum())
    query = torch.zeros(num_blocks * width, dtype=torch.int64, device=key.device)
    query[place_sorted] = order
    place = torch.empty_like(order)
    place[order] = place_sorted
    return Layout(query.view(num_blocks, width), place)
