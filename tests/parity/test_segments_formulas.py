"""Bins and blocks equal what their docstrings say, element by element."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_rec.segments import NUM_TIME_BINS, gap_bins, group_queries, segment_index, time_bins

LONGEST = 2**52


def bin_of(duration: int) -> int:
    """Return floor(log2(1 + duration)) in whole numbers."""
    return (max(duration, 0) + 1).bit_length() - 1


@given(st.lists(st.integers(-10, LONGEST) | st.integers(0, 52).map(lambda power: 2**power - 1), min_size=1))
@settings(deadline=None)
def test_time_bins_are_whole_logarithms(durations: list[int]) -> None:
    assert time_bins(torch.tensor(durations)).tolist() == [bin_of(duration) for duration in durations]


def test_time_bins_change_at_powers_of_two_exactly() -> None:
    edges = [2**power - 1 for power in range(53)]
    below = [2**power - 2 for power in range(1, 53)]
    assert time_bins(torch.tensor(edges)).tolist() == list(range(53))
    assert time_bins(torch.tensor(below)).tolist() == list(range(52))
    assert time_bins(torch.tensor([2**63 - 1, -5])).tolist() == [NUM_TIME_BINS - 1, 0]


@given(st.lists(st.lists(st.integers(0, 10**6), max_size=6), max_size=6))
@settings(deadline=None)
def test_gap_bins_start_anew_with_each_user(gaps: list[list[int]]) -> None:
    times, expected = [], []
    for user, own in enumerate(gaps):
        now = 10**9 * (7 - user)
        for place, gap in enumerate(own):
            now += gap
            times.append(now)
            expected.append(NUM_TIME_BINS if place == 0 else bin_of(gap))
    lengths = torch.tensor([len(own) for own in gaps], dtype=torch.int64)
    assert gap_bins(torch.tensor(times, dtype=torch.int64), lengths).tolist() == expected


@given(st.lists(st.integers(0, 11), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 3), st.integers(0, 4))
@settings(deadline=None)
def test_a_segment_index_finds_each_event_in_its_place(lengths: list[int], size: int, first: int, count: int) -> None:
    index = segment_index(torch.tensor(lengths), size, first, first + count)
    assert index.position.shape == index.valid.shape == (len(lengths), count, size)
    for user, length in enumerate(lengths):
        for segment in range(count):
            for event in range(size):
                within = (first + segment) * size + event
                assert bool(index.valid[user, segment, event]) == (within < length)
                expected = sum(lengths[:user]) + within if within < length else 0
                assert int(index.position[user, segment, event]) == expected


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=80)
    | st.integers(1, 700).map(lambda count: [(0, 3)] * count + [(2, 0)])
)
@settings(deadline=None)
def test_grouped_queries_are_each_in_one_place_beside_their_like(queries: list[tuple[int, int]]) -> None:
    user = torch.tensor([user for user, _ in queries], dtype=torch.int64)
    boundary = torch.tensor([boundary for _, boundary in queries], dtype=torch.int64)
    blocks = group_queries(user, boundary)
    num_places = blocks.query.numel()
    assert len(blocks.user) == len(blocks.boundary) == len(blocks.query)
    assert len(set(blocks.place.tolist())) == len(queries)
    assert all(0 <= place < num_places for place in blocks.place.tolist())
    used = set()
    for query, place in enumerate(blocks.place.tolist()):
        assert int(blocks.query.flatten()[place]) == query
        block = place // blocks.query.shape[1]
        used.add(block)
        assert (int(blocks.user[block]), int(blocks.boundary[block])) == queries[query]
    assert used == set(range(len(blocks.user))), "no block is empty"
    values = torch.arange(3 * len(queries)).view(len(queries), 3)
    assert torch.equal(blocks.scatter(blocks.gather(values)), values)
    answers = torch.stack([blocks.user, blocks.boundary], dim=1)[:, None].expand(-1, blocks.query.shape[1], -1)
    assert blocks.scatter(answers).tolist() == [list(query) for query in queries]
