"""Grouping queries that read the same state into blocks, so that one matrix product serves all queries of a block.

Suffixes: I query in its own order, B block, Q query of a block.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which query is at which position of which block, and the reverse."""

    query: Int[Tensor, "block position"]  # index of the query at a position; 0 for padding
    position: Int[Tensor, " query"]  # index of each query in the flattened blocks
    in_order: bool = False  # the blocks hold the queries in their own order, without padding: nothing has to be moved

    def gather(self, values: Tensor) -> Tensor:
        """Arrange values of queries [I, ...] in blocks [B, Q, ...]."""
        if self.in_order:
            return values.view(*self.query.shape, *values.shape[1:])
        flat = values.index_select(0, self.query.flatten())
        return flat.view(*self.query.shape, *values.shape[1:])

    def scatter(self, values: Tensor) -> Tensor:
        """Return values of blocks [B, Q, ...] in the order of the queries [I, ...]."""
        if self.in_order:
            return values.flatten(0, 1)
        return values.flatten(0, 1).index_select(0, self.position)


@dataclass(frozen=True)
class QueryBlocks:
    """Queries arranged in blocks: those of a block have the same user and boundary, so the same state and window."""

    user: Int[Tensor, " block"]
    boundary: Int[Tensor, " block"]  # of the stretch that the queries read
    tokens: Float[Tensor, "block query dim"]
    num_visible: Int[Tensor, "block query"]  # number of the stretch's first events (padding included) that a query sees
    time: Int[Tensor, "block query"]  # a query sees only what is earlier
    keys: Mapping[str, Tensor]  # name -> [B, Q] int64
    layout: Layout
    recent: Float[Tensor, "block query dim"] | None = None  # the window attention's answers, once these are computed

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.user)


# Cost of a block (its state and window are gathered and projected), in units of the cost of one query.
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
    """Group queries by (user, boundary) into blocks of the width that pads least; a large group has several blocks."""
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
    """Return the layout that puts queries of the same user and boundary into the same blocks."""
    key = user * (int(boundary.max()) + 1 if len(boundary) else 1) + boundary
    if 0 < len(key) <= _WIDTHS[-1] and bool((key == key[0]).all()):  # one user's candidates, as in online serving
        every = torch.arange(len(key), device=key.device)
        return Layout(every[None], every, in_order=True)
    key, order = torch.sort(key, stable=True)
    _, counts = torch.unique_consecutive(key, return_counts=True)
    # Powers of two, and the largest group's size: groups of one size, as in serving, need no padding.
    widths = torch.tensor([*_WIDTHS, min(int(counts.max()), _WIDTHS[-1]) if len(counts) else 1], device=key.device)
    costs = ((counts + widths[:, None] - 1) // widths[:, None]).sum(dim=1) * (widths + _BLOCK_COST)
    width = int(widths[costs.argmin()])

    blocks = (counts + width - 1) // width
    rank = torch.arange(len(key), device=key.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    first_position = (blocks.cumsum(0) - blocks) * width  # a group's blocks are consecutive, so its positions are too
    position_sorted = first_position.repeat_interleave(counts) + rank
    num_blocks = int(blocks.sum())
    query = torch.zeros(num_blocks * width, dtype=torch.int64, device=key.device)
    query[position_sorted] = order
    position = torch.empty_like(order)
    position[order] = position_sorted
    return Layout(query.view(num_blocks, width), position)
