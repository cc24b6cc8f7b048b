"""Which users share a batch: nobody is lost or repeated, padding stays within the limit, and order has one source."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.sequences.user_sequences import UserSequences
from pipelines.training.batches import BatchSize, iterate_batches, plan_batches, to_batch


def sequences_of(events: list[int], impressions: list[int], split: list[int] | None = None) -> UserSequences:
    """Users with so many events and impressions, whose ids tell where they came from."""
    num_events, num_impressions = sum(events), sum(impressions)
    offsets = np.concatenate([[0], np.cumsum(events)])
    last = np.repeat(events, impressions)
    return UserSequences(
        users=pa.array(np.arange(len(events))),
        event_offsets=offsets,
        event_time=np.arange(num_events),
        events={"item": np.arange(num_events) + 8},
        impression_offsets=np.concatenate([[0], np.cumsum(impressions)]),
        impression_time=np.full(num_impressions, num_events),
        num_earlier=np.asarray(last, np.int64),
        split=np.zeros(num_impressions, np.int8) if split is None else np.array(split, np.int8),
        label=(np.arange(num_impressions) % 2).astype(np.float32),
        item=pa.array(np.arange(num_impressions)),
        targets={"item": np.arange(num_impressions) + 8},
        context={"place": np.arange(num_impressions) % 3},
        context_dense=np.arange(num_impressions, dtype=np.float32)[:, None],
        carried={"truth": np.arange(num_impressions, dtype=np.float64)},
    )


users = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=0, max_size=40)


@settings(deadline=None)
@given(
    users=users,
    size=st.builds(BatchSize, st.integers(1, 200), impressions=st.integers(0, 9), most_events=st.integers(0, 900)),
    seed=st.none() | st.integers(0, 5),
)
def test_each_user_with_impressions_is_in_one_batch_and_padding_fits(
    users: list[tuple[int, int]], size: BatchSize, seed: int | None
) -> None:
    events, impressions = [e for e, _ in users], [i for _, i in users]
    sequences = sequences_of(events, impressions)

    def plan() -> list[list[int]]:
        generator = None if seed is None else np.random.default_rng(seed)
        return [batch.tolist() for batch in plan_batches(sequences, size, generator)]

    batches = plan()
    assert sorted(user for batch in batches for user in batch) == [u for u, (_, i) in enumerate(users) if i]
    for batch in batches:
        assert batch
        padded = len(batch) * max(1, *(events[user] for user in batch), 1)
        assert padded <= max(size.events, size.most_events) or len(batch) == 1
        if padded > size.events and len(batch) > 1:  # the last user was added since there were too few impressions
            assert (
                sum(impressions[user] for user in sorted(batch, key=lambda user: events[user])[:-1]) < size.impressions
            )
    assert plan() == batches


def test_users_with_one_impression_each_make_larger_batches() -> None:
    one_each, many_each = (sequences_of([50] * 400, [number] * 400) for number in (1, 20))
    size = BatchSize.of(100, impressions=16, total_events=20_000, min_batches=1)
    assert size.most_events == 3200
    assert {len(batch) for batch in plan_batches(one_each, size, None)} == {16}
    assert {len(batch) for batch in plan_batches(many_each, size, None)} == {2}
    small = BatchSize.of(100, impressions=16, total_events=20_000, min_batches=100)
    assert {len(batch) for batch in plan_batches(one_each, small, None)} == {4}, "at least a hundred batches"
    longer = BatchSize.of(100, impressions=1000, total_events=20_000, min_batches=1)
    assert max(len(batch) for batch in plan_batches(one_each, longer, None)) == 64, "thirty-two times as many events"


def test_little_is_padded_and_the_order_is_the_generators() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 400).tolist()
    sequences = sequences_of(lengths, [1] * 400)
    plans = [plan_batches(sequences, BatchSize(2000), np.random.default_rng(seed)) for seed in (0, 1)]
    assert [batch.tolist() for batch in plans[0]] != [batch.tolist() for batch in plans[1]]
    padded = sum(len(batch) * max(lengths[user] for user in batch) for batch in plans[0])
    assert padded < 1.3 * sum(lengths)
    longest = [max(lengths[user] for user in batch) for batch in plans[0]]
    assert longest != sorted(longest)


def test_a_split_has_its_own_impressions_and_only_the_events_they_may_know_of() -> None:
    sequences = sequences_of([3, 4, 2], [2, 2, 1], split=[0, 1, 0, 0, 2])
    sequences.num_earlier[:] = [1, 3, 2, 4, 2]
    (chosen, batch), *more = iterate_batches(sequences, 1, BatchSize(100))
    assert not more
    assert chosen.users.to_pylist() == [0]
    assert batch.num_earlier.tolist() == [3]
    assert batch.targets["item"].tolist() == [9]
    trained = [batch for _, batch in iterate_batches(sequences, 0, BatchSize(1))]
    assert [found.event_lengths.tolist() for found in trained] == [[1], [4]]


def test_tensors_hold_what_the_sequences_hold() -> None:
    sequences = sequences_of([3, 0, 2], [1, 1, 2])
    batch = to_batch(sequences)
    assert batch.event_lengths.tolist() == [3, 0, 2]
    assert batch.impression_lengths.tolist() == [1, 1, 2]
    assert batch.events["item"].tolist() == [8, 9, 10, 11, 12]
    assert batch.context["place"].tolist() == [0, 1, 2, 0]
    assert batch.context_dense.tolist() == [[0.0], [1.0], [2.0], [3.0]]
    assert batch.num_earlier.tolist() == [3, 0, 2, 2]
    assert batch.label.dtype == torch.float32
    assert batch.label.tolist() == pytest.approx(sequences.label.tolist())
