"""A fragment is whole, its user's own, older than the state that is asked for it, and known to some impression."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_rec.batch import UserBatch
from rm_rec.rehearsal.fragments import fragment_grid, known_events
from tests.support.fakes import KINDS, of_users, user_batch
from tests.support.rehearsed import (
    distinct_batch,
    distinct_model,
    named_states,
    names_of,
    rehearsal_config,
    rehearsal_objective,
    rehearse,
)

SAMPLERS = ("uniform", "teacher", "student")
WINDOWS: list[dict[str, Any]] = [
    {"kind": "segments", "num_segments": 0},
    {"kind": "segments", "num_segments": 3},
    {"kind": "last_events", "num_events": 6},
    {"kind": "whole_history"},
]
USER = st.integers(0, 40).flatmap(
    lambda length: st.tuples(st.just(length), st.lists(st.integers(0, length), max_size=3))
)


def known_of(batch: UserBatch) -> list[int]:
    """How many events each user's impressions have seen at most."""
    own = batch.num_earlier.split(batch.impression_lengths.tolist())
    return [int(seen.max()) if len(seen) else 0 for seen in own]


@settings(deadline=None, max_examples=50)
@given(
    users=st.lists(USER, max_size=5),
    segment_length=st.integers(1, 7),
    fragment_length=st.integers(2, 9),
    bptt_segments=st.integers(1, 4),
    window=st.sampled_from(WINDOWS),
    sampler=st.sampled_from(SAMPLERS),
    seed=st.integers(0, 3),
)
def test_each_is_whole_its_users_own_and_older_than_the_state(
    users: list[tuple[int, list[int]]],
    segment_length: int,
    fragment_length: int,
    bptt_segments: int,
    window: dict[str, Any],
    sampler: str,
    seed: int,
) -> None:
    batch = distinct_batch([length for length, _ in users], [seen for _, seen in users])
    model = distinct_model(segment_length=segment_length, bptt_segments=bptt_segments, window=window)
    config = rehearsal_config(fragment_length=fragment_length, sampler=sampler)
    known = known_of(batch)
    first = batch.event_lengths.cumsum(0) - batch.event_lengths
    for stretch, heard in rehearse(rehearsal_objective(model, config), model, batch, seed, change=named_states):
        start = stretch.start
        last = start + stretch.trace["slots"].shape[1] - 1
        asked = [min(last, events // segment_length) for events in known]
        able = [u for u, b in enumerate(asked) if b > start and b * segment_length >= fragment_length]
        if heard is None:
            assert not able
            continue
        user, boundary = names_of(heard.slots)
        assert sorted(user.tolist()) == [u for u in able for _ in range(config.fragments_per_user)]
        for f in range(len(user)):
            within = (heard.position[f] - first[user[f]]).tolist()
            place = within[0] // fragment_length
            assert within == list(range(place * fragment_length, (place + 1) * fragment_length))
            assert within[0] >= 0
            assert within[-1] < int(boundary[f]) * segment_length <= known[user[f]]
            assert start < int(boundary[f]) <= last


def test_all_fragments_are_asked_of_all_later_states() -> None:
    batch = distinct_batch([3, 26, 2], [[3], [2, 21], [0]])
    model = distinct_model(bptt_segments=2)
    objective = rehearsal_objective(model, rehearsal_config(fragments_per_user=400))
    found = set()
    for _, heard in rehearse(objective, model, batch, change=named_states):
        assert heard is not None
        found |= set(zip(names_of(heard.slots)[1].tolist(), (heard.position[:, 0] - 3).tolist(), strict=True))
    # 21 events are known: 5 segments of 4. The state at boundary 3 begins a stretch whose gradient ends there.
    assert [stretch.start for stretch, _ in rehearse(objective, model, batch)] == [0, 3]
    assert found == {(b, first) for b in range(1, 6) for first in range(0, 4 * b - 2, 3)}


@pytest.mark.parametrize("bptt_segments", [1, 2, 32])
def test_decoder_and_memory_see_of_a_user_what_they_see_of_it_alone(bptt_segments: int) -> None:
    batch = distinct_batch([2, 27, 0, 16, 9], [[2], [27, 1, 9, 14], [0], [16, 3], [9]])
    model, whole = (distinct_model(bptt_segments=segments) for segments in (bptt_segments, 32))
    objective = rehearsal_objective(model)
    named = rehearse(objective, model, batch, change=named_states)
    num_asked = 0
    for (_, heard), (_, told) in zip(rehearse(objective, model, batch), named, strict=True):
        if heard is None or told is None:
            assert heard is told
            continue
        assert heard.slots is not None
        assert torch.equal(heard.position, told.position)
        for f, (user, boundary) in enumerate(zip(*names_of(told.slots), strict=True)):
            alone = of_users(batch, [int(user)])
            assert set(heard.position[f].tolist()) <= set(alone.events["item"].tolist())
            (output,) = whole.stretches(alone)
            assert whole.memory.slots is not None
            slots = whole.memory.slots.slots(output.memory.trace, torch.tensor([0]), boundary[None])
            torch.testing.assert_close(heard.slots.values[f], slots.values[0], atol=1e-5, rtol=0)
            num_asked += 1
    assert num_asked >= 12


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_where_there_is_no_memory_the_same_fragments_are_asked_of_nobody(window: dict[str, Any]) -> None:
    batch = distinct_batch([2, 27, 0, 16, 9], [[2], [27, 1, 9, 14], [0], [16, 3], [9]])
    found = []
    for kind in ("none", *KINDS):
        model = distinct_model(machine=kind, bptt_segments=2, window=window)
        objective = rehearsal_objective(model)
        stretches = [heard for _, heard in rehearse(objective, model, batch) if heard is not None]
        assert all((heard.slots is None) == (kind == "none") for heard in stretches)
        found.append([heard.position.tolist() for heard in stretches])
    assert found[0]
    assert all(positions == found[0] for positions in found)


def test_known_events_are_those_of_the_latest_impression() -> None:
    batch = user_batch([9, 5, 4, 0], [[2, 7, 3], [], [0], [0]])
    assert known_events(batch.histories(), batch.queries(torch.zeros(5, 5))).tolist() == [7, 0, 0, 0]


def test_a_grid_is_the_mean_of_each_whole_known_fragment() -> None:
    batch = user_batch([11, 0, 3, 8, 7], [[10, 2], [0], [3], [], [7]])
    content = torch.randn(29, 5, generator=torch.Generator().manual_seed(0))
    grid = fragment_grid(batch.histories(), batch.queries(torch.zeros(5, 5)), content, 3)
    assert grid.count.tolist() == [3, 0, 1, 0, 2]
    assert grid.summary.shape == (5, 3, 5)
    for user, first in enumerate([0, 11, 11, 14, 22]):
        for place in range(3):
            own = content[first + 3 * place : first + 3 * place + 3].mean(dim=0)
            expected = own if place < grid.count[user] else torch.zeros(5)
            torch.testing.assert_close(grid.summary[user, place], expected)


@pytest.mark.parametrize(
    "batch",
    [distinct_batch([], []), distinct_batch([0, 0], [[0], []]), distinct_batch([9, 2], [[0], [2]])],
    ids=["no users", "no events", "no known fragment"],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_where_no_state_has_folded_one_there_is_nothing_to_ask(batch: UserBatch, sampler: str, kind: str) -> None:
    model = distinct_model(machine=kind)
    objective = rehearsal_objective(model, rehearsal_config(sampler=sampler))
    assert [heard for _, heard in rehearse(objective, model, batch) if heard is not None] == []
