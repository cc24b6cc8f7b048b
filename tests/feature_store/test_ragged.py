import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.ragged import count_earlier, count_earlier_in_row, last_equal, offsets_of, owners, ranges, runs

rows_of_times = st.lists(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 4), max_size=8), max_size=6)


@given(rows_of_times)
@settings(deadline=None)
def test_earlier_events_of_a_row_equal_a_slow_loop(rows: list[list[int]]) -> None:
    rows = [sorted(row) for row in rows]
    expected = [sum(other < time for other in row) for row in rows for time in row]
    time = np.array([time for row in rows for time in row], np.int64)
    assert count_earlier_in_row(time, offsets_of(np.array([len(row) for row in rows], int))).tolist() == expected


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(-1, 10), max_size=6))))
@settings(deadline=None)
def test_earlier_events_of_other_moments_equal_a_slow_loop(rows: list[tuple[list[int], list[int]]]) -> None:
    rows = [(sorted(events), sorted(moments)) for events, moments in rows]
    expected = [sum(event < moment for event in events) for events, moments in rows for moment in moments]

    def flat(which: int) -> tuple[np.ndarray, np.ndarray]:
        lists = [row[which] for row in rows]
        values = np.array([value for values in lists for value in values], np.int64)
        return values, offsets_of(np.array([len(values) for values in lists], int))

    assert count_earlier(*flat(0), *flat(1)).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=10))
@settings(deadline=None)
def test_ranges_equal_a_slow_loop(pairs: list[tuple[int, int]]) -> None:
    starts, lengths = np.array(pairs, np.int64).reshape(-1, 2).T
    assert ranges(starts, lengths).tolist() == [start + i for start, length in pairs for i in range(length)]
    assert owners(offsets_of(lengths)).tolist() == [i for i, (_, length) in enumerate(pairs) for _ in range(length)]


@pytest.mark.parametrize("chunks", [[[1, 1], [1, 4]], [[]], []])
def test_runs(chunks: list[list[int]]) -> None:
    ids, offsets = runs(pa.chunked_array(chunks, pa.int64()))
    assert (ids.to_pylist(), offsets.tolist()) == (([1, 4], [0, 3, 4]) if len(chunks) == 2 else ([], [0]))


moments = st.tuples(st.integers(0, 4), st.integers(0, 8))


@given(st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=8), st.lists(moments, max_size=5)), max_size=6))
@settings(deadline=None)
def test_the_last_equal_event_equals_a_slow_loop(rows: list[tuple[list[int], list[tuple[int, int]]]]) -> None:
    expected, key, row, num_earlier = [], [], [], []
    for place, (events, asked) in enumerate(rows):
        for wanted, earlier in asked:
            known = events[: min(earlier, len(events))]
            expected.append(max((at for at, event in enumerate(known) if event == wanted), default=-1))
            key.append(wanted - 2**62)  # keys may be anything
            row.append(place)
            num_earlier.append(len(known))
    events = np.array([event - 2**62 for events, _ in rows for event in events], np.int64)
    offsets = offsets_of(np.array([len(events) for events, _ in rows], int))
    arrays = (np.array(values, np.int64) for values in (key, row, num_earlier))
    assert last_equal(events, offsets, *arrays).tolist() == expected
