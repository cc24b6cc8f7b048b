"""Order and repeated rows of a bucket, against plain loops."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.logs.sorting import order_by, ranks, repeats

INTEGERS = {
    "small": st.integers(0, 3),
    "any": st.integers(-(2**63), 2**63 - 1),
    "microseconds": st.integers(1_700_000_000_000_000, 1_800_000_000_000_000),
}


@pytest.mark.parametrize("values", INTEGERS)
@settings(deadline=None)
@given(data=st.data())
def test_order_is_that_of_python(values: str, data: Any) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, 2), INTEGERS[values], INTEGERS["small"]), min_size=1))
    keys = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    assert order_by(*keys).tolist() == sorted(range(len(rows)), key=rows.__getitem__)  # sorted() is stable


def test_hashes_of_64_bits_are_sorted_too() -> None:
    assert order_by(np.array([2**64 - 1, 0, 2**63], np.uint64)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("ids", [["b", "a", "é", "z", "a"], [7, -(2**62), 2**62, 7]])
@pytest.mark.parametrize("encoded", [False, True])
def test_ranks_are_those_of_sorted_ids(ids: list[Any], encoded: bool) -> None:
    column = pa.array(ids).dictionary_encode() if encoded else pa.array(ids)
    distinct = sorted(set(ids), key=lambda value: value.encode() if isinstance(value, str) else value)
    assert ranks(column).tolist() == [distinct.index(value) for value in ids]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))))
def test_repeats_are_those_of_a_loop(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[:2])  # by user and time; equal rows are not always neighbours
    user, time, row_hash = (np.array([row[place] for row in rows], np.int64) for place in range(3))
    seen: dict[tuple[int, int, int], int] = {}
    expected = [(place, seen[row]) for place, row in enumerate(rows) if seen.setdefault(row, place) != place]
    found, first = repeats(user, time, row_hash.astype(np.uint64))
    assert list(zip(found.tolist(), first.tolist(), strict=True)) == expected
