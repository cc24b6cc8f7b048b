"""Jagged histories as segments of fixed length, and impressions grouped by the state that they read.

Suffixes: U user, S segment, N event of a segment, D dim, I query, B block of queries, Q query of a block.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_TIME_BINS = 64


def time_bins(duration: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Bin durations of any unit by floor(log2(1 + duration)): 0, 1-2, 3-6, 7-14, ...; negative ones count as 0.

    Exact below 2**53, and so the same on every device.
    """
    # Read off a float64's exponent: a logarithm rounds up just below a power of two.
    bins = duration.clamp(min=0).to(torch.float64).add_(1.0).view(torch.int64).bitwise_right_shift_(52)
    return bins.sub_(1023)


def gap_bins(event_time: Int[Tensor, " event"], event_lengths: Int[Tensor, " user"]) -> Int[Tensor, " event"]:
    """Bin the time since the same user's event before; a user's first event has bin NUM_TIME_BINS."""
    gaps = torch.zeros_like(event_time)
    gaps[1:] = event_time[1:] - event_time[:-1]
    bins = time_bins(gaps)
    first = event_lengths.cumsum(0) - event_lengths
    bins[first[event_lengths > 0]] = NUM_TIME_BINS
    return bins


@dataclass(frozen=True)
class SegmentIndex:
    """Where each event of a run of segments lies among a batch's events.

    `position[u, s, n]` is an index into the batch's events (0 where there is none: see `valid`).
    """

    position: Int[Tensor, "user segment event"]
    valid: Bool[Tensor, "user segment event"]


def segment_index(event_lengths: Int[Tensor, " user"], segment_length: int, first: int, last: int) -> SegmentIndex:
    """Index the segments `first` to `last - 1` of each user."""
    device = event_lengths.device
    offsets = event_lengths.cumsum(0) - event_lengths
    within = torch.arange(first * segment_length, last * segment_length, device=device)
    valid = within < event_lengths[:, None]
    position = torch.where(valid, offsets[:, None] + within, 0)
    shape = (len(event_lengths), last - first, segment_length)
    return SegmentIndex(position.view(shape), valid.view(shape))


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive segments of some users: `num_folded` segments that the state holds already, then those to fold.

    The folded ones are there for the windows. Boundary b of a stretch is the moment after its b-th unfolded segment;
    at boundary 0 the state is the one that came in.
    """

    tokens: Float[Tensor, "user segment event dim"]
    valid: Bool[Tensor, "user segment event"]
    time: Int[Tensor, "user segment event"]
    num_folded: int


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What is asked of a stretch: each query of one user, at one boundary, seeing the first events of its stretch."""

    tokens: Float[Tensor, "query dim"]
    user: Int[Tensor, " query"]
    boundary: Int[Tensor, " query"]
    num_visible: Int[Tensor, " query"]  # events of the stretch, folded ones included, that the query may see
    time: Int[Tensor, " query"]


@dataclass(frozen=True)
class QueryBlocks:
    """Queries that share user and boundary, side by side, so that they read one state by one matrix product."""

    user: Int[Tensor, " block"]
    boundary: Int[Tensor, " block"]
    query: Int[Tensor, "block slot"]  # which query; 0 where there is none
    place: Int[Tensor, " query"]  # where each query's answer lies among block x slot
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


# Relative cost of a block beside its queries: its state and window are gathered and projected.
_BLOCK_COST = 16
_WIDTHS = [2**power for power in range(9)]


def group_queries(user: Int[Tensor, " query"], boundary: Int[Tensor, " query"]) -> QueryBlocks:
    """Group queries by (user, boundary) into blocks, of the width that wastes least; large groups take several."""
    key = user * (int(boundary.max()) + 1 if len(boundary) else 1) + boundary
    if 0 < len(key) <= _WIDTHS[-1] and bool((key == key[0]).all()):  # one user's candidates: what is served online
        every = torch.arange(len(key), device=key.device)
        return QueryBlocks(user[:1], boundary[:1], every[None], every, in_order=True)
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
    first = query.view(num_blocks, width)[:, 0]
    return QueryBlocks(user[first], boundary[first], query.view(num_blocks, width), place)
