"""Ragged arrays: rows of different lengths, concatenated, and the offsets at which they begin."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def offsets_of(lengths: NDArray[np.integer]) -> Ids:
    """Convert lengths [n] to offsets [n + 1].

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def owners(offsets: Ids) -> Ids:
    """Return the row that each element belongs to: offsets [n + 1] -> [elements].

    >>> owners(np.array([0, 2, 2, 5])).tolist()
    [0, 0, 2, 2, 2]
    """
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def ranges(starts: Ids, lengths: Ids) -> Ids:
    """Return the indices start, start + 1, … of each range, concatenated.

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    offsets = offsets_of(lengths)
    return np.asarray(np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]), np.int64)


def runs(sorted_ids: pa.ChunkedArray) -> tuple[pa.Array, Ids]:
    """Return the distinct ids [n] of a sorted column, and the offsets [n + 1] of their runs."""
    ids = sorted_ids.combine_chunks()
    if isinstance(ids, pa.ChunkedArray):  # pyarrow does not combine a column without chunks
        ids = pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], ids.type)
    encoded = pc.run_end_encode(ids, run_end_type=pa.int64())
    ends = encoded.run_ends.to_numpy()
    return encoded.values, np.concatenate([np.zeros(1, np.int64), ends])


def count_earlier_in_row(time: Ids, offsets: Ids) -> Ids:
    """Count for each element [E], sorted by row and time, the elements of its row with a strictly smaller time."""
    if len(time) == 0:
        return np.zeros(0, np.int64)
    first = np.ones(len(time), bool)
    first[1:] = time[1:] != time[:-1]
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    start_of_tie = np.maximum.accumulate(np.where(first, np.arange(len(time)), 0))
    return np.asarray(start_of_tie - np.repeat(offsets[:-1], np.diff(offsets)), np.int64)


def count_earlier(event_time: Ids, event_offsets: Ids, time: Ids, offsets: Ids) -> Ids:
    """Count for each moment [I] the events of its row with a strictly smaller time; both sorted by row and time."""
    # With ranks instead of times, (row, time) is one integer, so that one binary search serves all rows.
    moments = np.unique(np.concatenate([event_time, time]))
    width = len(moments) + 1
    event_key = owners(event_offsets) * width + np.searchsorted(moments, event_time)
    key = owners(offsets) * width + np.searchsorted(moments, time)
    return np.asarray(np.searchsorted(event_key, key, side="left") - np.repeat(event_offsets[:-1], np.diff(offsets)))


def last_equal(event_key: Ids, event_offsets: Ids, key: Ids, row: Ids, num_earlier: Ids) -> Ids:
    """Find for each key [I] the last equal one among the first `num_earlier` events of its row: its position, or -1.

    >>> events, offsets, key, row = np.array([5, 7, 5]), np.array([0, 3]), np.array([5, 5, 8]), np.array([0, 0, 0])
    >>> last_equal(events, offsets, key, row, num_earlier=np.array([3, 2, 3])).tolist()
    [2, 0, -1]
    """
    event_row = owners(event_offsets)
    # Pairs of row and key, then of pair and position, are each encoded as one integer that cannot overflow.
    keys, code = np.unique(np.concatenate([event_key, key]), return_inverse=True)
    pair = np.unique(np.concatenate([event_row, row]) * (len(keys) + 1) + code, return_inverse=True)[1]
    event_pair, pair = pair[: len(event_key)], pair[len(event_key) :]
    width = int(np.diff(event_offsets).max(initial=0)) + 1
    position = np.arange(len(event_key)) - event_offsets[event_row]
    order = np.argsort(event_pair, kind="stable")
    rank = np.searchsorted((event_pair * width + position)[order], pair * width + num_earlier, side="left") - 1
    if not len(order):
        return np.full(len(key), -1, np.int64)
    event = order[rank]
    return np.where((rank >= 0) & (event_pair[event] == pair), position[event], -1)
