"""How histories are divided into segments, windows and stretches.

A history is divided into segments of N events. Boundary b is the moment after b full segments: the state at boundary b
has folded them. The events after the last full segment, fewer than N, are the tail. A user's window, which is kept
beside the state, holds the tail and the last R full segments. So a window starts at the start of a segment, and new
events can be appended to it (`Timeline`). Training, folding and scoring process a timeline in stretches of segments.

Suffixes: U user, S segment, N event of a segment, W event of a window, E event of all users, Q query, D dim.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rm_rec.histories import TOKENS, Histories, Queries, take, take_column
from rm_rec.query_blocks import QueryBlocks, group_queries

JOINED = 16  # so many stretches that no query reads, and which so need no gradients, are folded together

# Computes vectors of events [E, D] from their keys, name -> [E], and the binned time gap before each [E].
Embed = Callable[[dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Cut:
    """Segments of `segment_length` events, and a window of the tail and the last `window_segments` full segments.

    >>> cut = Cut(segment_length=4, window_segments=2)
    >>> cut.window_length(torch.tensor([0, 3, 4, 11, 12, 1003])).tolist()
    [0, 3, 4, 11, 8, 11]
    """

    segment_length: int
    window_segments: int

    @property
    def window_events(self) -> int:
        """Largest number of events in a window."""
        return self.window_positions - 1

    @property
    def window_positions(self) -> int:
        """Number of events that a window is padded to: whole segments, one more than it can hold."""
        return (self.window_segments + 1) * self.segment_length

    def num_full(self, num_events: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return the number of full segments, which are folded already, in each user's window."""
        return (num_events // self.segment_length).clamp(max=self.window_segments)

    def window_length(self, num_events: Int[Tensor, " user"]) -> Int[Tensor, " user"]:
        """Return the number of events in each user's window."""
        return num_events % self.segment_length + self.segment_length * self.num_full(num_events)


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Consecutive segments of some users; positions that are not valid are padding."""

    tokens: Float[Tensor, "user segment event dim"]
    valid: Bool[Tensor, "user segment event"]
    time: Int[Tensor, "user segment event"]
    keys: Mapping[str, Tensor]  # name -> [U, S, N] int64

    def between(self, first: int, end: int | None = None) -> "Segments":
        """Return the segments from `first` to before `end`."""
        return Segments(
            tokens=self.tokens[:, first:end],
            valid=self.valid[:, first:end],
            time=self.time[:, first:end],
            keys={name: values[:, first:end] for name, values in self.keys.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Segments that are processed together: `num_folded` that the state has folded already, then those to fold.

    The folded ones are needed for the windows. Boundary b of a stretch is the moment after its b-th segment to fold;
    the state at boundary 0 is the stretch's initial state.
    """

    segments: Segments
    num_folded: int
    lead: Int[Tensor, " user"]  # number of padding events before a user's first event

    @property
    def num_to_fold(self) -> int:
        """Number of segments to fold, full or not."""
        return self.segments.valid.shape[1] - self.num_folded

    def to_fold(self, until: Int[Tensor, " user"] | None = None) -> Segments:
        """Return the segments to fold; those that are not full, or not before boundary `until`, are not valid."""
        segments = self.segments.between(self.num_folded)
        valid = segments.valid & segments.valid.all(dim=2, keepdim=True)
        if until is not None:
            valid &= (torch.arange(self.num_to_fold, device=until.device) < until[:, None])[..., None]
        return replace(segments, valid=valid)


@dataclass(frozen=True)
class Part:
    """A stretch of a timeline, and the queries that read a state or window of it."""

    start: int  # the boundary at which it starts, counted from the state at the start of the timeline
    stretch: Stretch
    query: Int[Tensor, " part"]  # indices of the queries
    targets: Float[Tensor, "part dim"]  # vectors of the queries' targets
    blocks: QueryBlocks
    # The one boundary of the stretch that each user's queries read, or its end if they read a later one; None if some
    # user's queries, of this part or others, read several boundaries.
    only_read: Int[Tensor, " user"] | None


@dataclass(frozen=True)
class Timeline:
    """Each user's window, if there is one, followed by the new events.

    The first `num_window` of a user's events are its window: `num_full` full segments, which the state has folded, and
    a tail.
    """

    cut: Cut
    histories: Histories
    num_window: Int[Tensor, " user"]
    num_full: Int[Tensor, " user"]
    keys_read: tuple[str, ...]  # the keys that segments contain: those that some source reads
    gap: Int[Tensor, " event"] | None = None  # binned time since the user's previous event, for `embed`

    @classmethod
    def from_start(cls, cut: Cut, histories: Histories, keys_read: tuple[str, ...]) -> "Timeline":
        """Make the timeline of histories with vectors, from their first event on."""
        nothing = torch.zeros_like(histories.lengths)
        return cls(cut, histories, nothing, nothing, keys_read)

    def num_segments(self) -> Int[Tensor, " user"]:
        """Return the number of each user's full segments that are to be folded."""
        return self.histories.lengths // self.cut.segment_length - self.num_full

    def to_fold(self, embed: Embed | None, at_once: int) -> Iterator[Segments]:
        """Yield the full segments that are to be folded, `at_once` at a time, after one look-up of all vectors.

        So memory use beyond events and vectors does not grow with a history's length.
        """
        length = self.cut.segment_length
        count_U = self.histories.lengths // length - self.num_full
        most = int(count_U.max()) if len(count_U) else 0
        if not most:
            return
        within_E = torch.arange(most * length, device=count_U.device)
        valid_UE = within_E < length * count_U[:, None]
        start_U = self.histories.first + length * self.num_full
        index = torch.where(valid_UE, start_U[:, None] + within_E, 0).view(len(count_U), most, length)
        whole = self._segments(self._embedded(index, embed), index, valid_UE.view(index.shape))
        for first in range(0, most, at_once):
            yield whole.between(first, first + at_once)

    def parts(self, queries: Queries, at_once: int | None, *, by_user: bool = False) -> Iterator[Part]:
        """Yield the timeline, as far as queries see it, in parts of `at_once` segments (None: one part).

        A part may have no queries. If one part has to be shorter it is the first one, so that queries at the end of
        long histories get gradients through as many writes as any. With `by_user`, queries of one user share blocks
        whatever their boundaries.
        """
        length, window = self.cut.segment_length, self.cut.window_segments
        seen_Q = self.histories.lengths[queries.user]
        if queries.num_earlier is not None:
            seen_Q = self.num_window[queries.user] + queries.num_earlier
        boundary_Q = seen_Q // length - self.num_full[queries.user]
        num_boundaries = int(boundary_Q.max()) + 1 if len(boundary_Q) else 1
        only_read_U = self._only_read(queries.user, boundary_Q)
        most_full = int(self.num_full.max()) if len(self.num_full) else 0
        step = num_boundaries if at_once is None else at_once
        for start, end in _stretches(boundary_Q, num_boundaries, step):
            num_folded = min(window, start + most_full)
            first_U = self.num_full + (start - num_folded)  # a user's first segment in this stretch; negative: padding
            row = torch.nonzero((boundary_Q >= start) & (boundary_Q < end)).squeeze(1)
            # Nothing has to be moved if all queries are in one part. A view, since hooks on modules (such as counters
            # of operations) need inputs that are not leaves of the graph.
            all_here = len(row) == len(queries.user)
            targets = queries.tokens.view_as(queries.tokens) if all_here else take(queries.tokens, row)
            user = queries.user.index_select(0, row)
            boundary = boundary_Q.index_select(0, row) - start
            blocks = group_queries(
                tokens=targets,
                user=user,
                boundary=torch.zeros_like(boundary) if by_user else boundary,
                num_visible=seen_Q.index_select(0, row) - length * first_U[user],
                time=queries.time.index_select(0, row),
                keys={name: queries.keys[name].index_select(0, row) for name in self.keys_read},
            )
            yield Part(
                start=start,
                stretch=self._stretch(first_U, end - start + num_folded, num_folded),
                query=row,
                targets=targets,
                blocks=blocks,
                only_read=None if only_read_U is None else (only_read_U - start).clamp(0, end - start),
            )

    def _only_read(self, user_Q: Tensor, boundary_Q: Tensor) -> Tensor | None:
        """Return the boundary that all of a user's queries read [U]; None if some user's read several."""
        last_U = torch.zeros_like(self.histories.lengths).scatter_(0, user_Q, boundary_Q)
        return last_U if torch.equal(last_U[user_Q], boundary_Q) else None

    def _stretch(self, first_U: Tensor, num_segments: int, num_folded: int) -> Stretch:
        length = self.cut.segment_length
        within_UE = length * first_U[:, None] + torch.arange(num_segments * length, device=first_U.device)
        valid = (within_UE >= 0) & (within_UE < self.histories.lengths[:, None])
        index = torch.where(valid, self.histories.first[:, None] + within_UE, 0).view(
            len(first_U), num_segments, length
        )
        assert self.histories.tokens is not None
        segments = self._segments(take(self.histories.tokens, index), index, valid.view(index.shape))
        return Stretch(segments=segments, num_folded=num_folded, lead=(-length * first_U).clamp(min=0))

    def _segments(self, tokens: Tensor, index: Tensor, valid: Tensor) -> Segments:
        return Segments(
            tokens=tokens,
            valid=valid,
            time=take_column(self.histories.time, index),
            keys={name: take_column(self.histories.keys[name], index) for name in self.keys_read},
        )

    def _embedded(self, index: Int[Tensor, "*shape"], embed: Embed | None) -> Float[Tensor, "*shape dim"]:
        if embed is None:
            assert self.histories.tokens is not None
            return take_column(self.histories.tokens, index)
        assert self.gap is not None
        keys = {name: take_column(values, index.flatten()) for name, values in self.histories.keys.items()}
        tokens = embed(keys, take_column(self.gap, index.flatten()))
        return tokens.view(*index.shape, tokens.shape[-1])

    def next_window(self) -> Int[Tensor, "user position"]:
        """Return the indices of the events of each user's window after this timeline; padding has index 0."""
        length_U = self.cut.window_length(self.histories.lengths)
        within_UW = torch.arange(self.cut.window_positions, device=length_U.device)
        start_U = self.histories.first + self.histories.lengths - length_U
        return torch.where(within_UW < length_U[:, None], start_U[:, None] + within_UW, 0)


def _stretches(boundary_Q: Tensor, num_boundaries: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield stretches of `step` boundaries, first and end; up to sixteen that no query reads are joined to one."""
    first_end = num_boundaries % step or step
    has_query = torch.zeros(-(-num_boundaries // step), dtype=torch.bool, device=boundary_Q.device)
    has_query[(boundary_Q - first_end + step) // step] = True
    start = end = 0
    for index, is_read in enumerate(has_query.tolist()):
        if end > start and (is_read or end - start >= JOINED * step):
            yield start, end
            start = end
        end = first_end + index * step
        if is_read:
            yield start, end
            start = end
    if end > start:
        yield start, end


def lay_windows(cut: Cut, num_events: Tensor, time_UW: Tensor, columns: Mapping[str, Tensor]) -> Stretch:
    """Return a stretch of windows in which the last full segments of all users are aligned.

    `time_UW` and `columns`, the vectors TOKENS [U, W, D] and keys [U, W], are padded at the end. The stretch has
    nothing to fold, since the tail is not a full segment.
    """
    num_full_U = cut.num_full(num_events)
    fewest, most = (int(bound) for bound in torch.aminmax(num_full_U)) if len(num_full_U) else (0, 0)
    width = (most + 1) * cut.segment_length
    lead_U = (most - num_full_U) * cut.segment_length
    within_UW = torch.arange(width, device=lead_U.device) - lead_U[:, None]
    valid_UW = (within_UW >= 0) & (within_UW < cut.window_length(num_events)[:, None])

    def laid(values: Tensor) -> Tensor:
        if fewest == most:  # aligned already
            return _in_segments(values[:, :width], cut.segment_length)
        index_UW = within_UW.clamp(min=0).view(*within_UW.shape, *[1] * (values.dim() - 2))
        aligned = values.gather(1, index_UW.expand(-1, -1, *values.shape[2:]))
        return _in_segments(aligned, cut.segment_length)

    segments = Segments(
        tokens=laid(columns[TOKENS]),
        valid=_in_segments(valid_UW, cut.segment_length),
        time=laid(time_UW),
        keys={name: laid(values) for name, values in columns.items() if name != TOKENS},
    )
    return Stretch(segments=segments, num_folded=most, lead=lead_U)


def _in_segments(values_UW: Tensor, length: int) -> Tensor:
    return values_UW.reshape(len(values_UW), values_UW.shape[1] // length, length, *values_UW.shape[2:])
