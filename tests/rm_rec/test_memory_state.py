"""What is kept of users answers as the log would: folded in any number of nights, read without a single old event."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from rm_rec.batch import Candidates, UserBatch
from rm_rec.errors import BatchError, ConfigError
from rm_rec.histories import Histories
from rm_rec.memory_state import MemoryState
from rm_rec.model import ClickModel
from rm_rec.segments import Cut
from tests.support.fakes import ENCODERS, KINDS, click_model, model_config, ragged_batch, user_batch

MODELS = {
    **{f"{kind}-{encoder}": model_config(machine=kind, encoder=encoder) for kind in KINDS for encoder in ENCODERS},
    "no-segments": model_config(window={"kind": "segments", "num_segments": 0}),
    "three-segments": model_config(window={"kind": "segments", "num_segments": 3}),
    "short-bptt": model_config(bptt_segments=1),
    "last-events": model_config(machine="none", window={"kind": "last_events", "num_events": 6}),
    "last-events-and-machine": model_config(window={"kind": "last_events", "num_events": 9}),
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> ClickModel:
    return click_model(MODELS[request.param])


def events_between(batch: UserBatch, start: Tensor, end: Tensor) -> Histories:
    """Each user's events from its `start`-th to before its `end`-th."""
    first = batch.event_lengths.cumsum(0) - batch.event_lengths
    rows = [torch.arange(int(f + s), int(f + e)) for f, s, e in zip(first, start, end, strict=True)]
    chosen = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    return Histories(
        lengths=end - start,
        time=batch.event_time[chosen],
        keys={name: ids[chosen] for name, ids in batch.events.items()},
    )


def candidates_of(batch: UserBatch, impressions: Tensor, user: Tensor | None = None) -> Candidates:
    return Candidates(
        user=batch.impression_user[impressions] if user is None else user,
        time=batch.impression_time[impressions],
        targets={name: ids[impressions] for name, ids in batch.targets.items()},
        context={name: ids[impressions] for name, ids in batch.context.items()},
        context_dense=batch.context_dense[impressions],
    )


def folded(model: ClickModel, batch: UserBatch, nights: Sequence[Tensor]) -> MemoryState:
    """The memories after folding up to each night's number of events."""
    memories = model.no_memories(batch.num_users)
    before = torch.zeros(batch.num_users, dtype=torch.int64)
    for upto in nights:
        memories = model.fold(memories, events_between(batch, before, upto))
        before = upto
    return memories


@torch.no_grad()
def test_a_memory_answers_what_the_log_would(model: ClickModel) -> None:
    batch = ragged_batch()
    expected = model(batch)
    for impression in range(len(batch.label)):
        user = int(batch.impression_user[impression])
        one = torch.tensor([impression])
        seen = int(batch.num_earlier[impression])
        first = int(batch.event_lengths[:user].sum())
        history = Histories(
            lengths=torch.tensor([seen]),
            time=batch.event_time[first : first + seen],
            keys={name: ids[first : first + seen] for name, ids in batch.events.items()},
        )
        memories = model.fold(model.no_memories(1), history)
        logit = model.score(memories, candidates_of(batch, one, user=torch.tensor([0])))
        assert torch.allclose(logit, expected[one], atol=1e-5), impression


@torch.no_grad()
def test_users_of_all_lengths_are_scored_together(model: ClickModel) -> None:
    lengths = [0, 3, 4, 27, 16, 5, 0, 8]
    batch = user_batch(lengths, [[n, n] if n != 5 else [] for n in lengths], seed=3)
    memories = folded(model, batch, [batch.event_lengths])
    shuffled = torch.randperm(len(batch.label), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.score(memories, candidates_of(batch, shuffled)), model(batch)[shuffled], atol=1e-5)
    nothing = candidates_of(batch, shuffled[:0])
    assert model.score(memories, nothing).shape == (0,)
    assert model.score(model.no_memories(0), nothing).shape == (0,)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_folding_night_by_night_is_folding_once(data: st.DataObject) -> None:
    model = click_model(MODELS[data.draw(st.sampled_from(sorted(MODELS)))])
    lengths = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    batch = user_batch(lengths, [[] for _ in lengths], seed=data.draw(st.integers(0, 99)))
    nights = []
    for _ in range(data.draw(st.integers(1, 4))):  # each night up to a share of every user's events of its own
        nights.append(torch.tensor([data.draw(st.integers(0, length)) for length in lengths]))
    upto = torch.stack([*nights, batch.event_lengths]).sort(dim=0).values
    with torch.no_grad():
        once = folded(model, batch, [batch.event_lengths])
        often = folded(model, batch, list(upto))
    kept = model.memory.cut.window_length(once.num_events)
    real = torch.arange(model.memory.cut.window_positions) < kept[:, None]
    assert torch.equal(once.num_events, often.num_events)
    assert torch.equal(once.last_time[once.num_events > 0], often.last_time[once.num_events > 0])
    for name, values in once.state.items():
        assert torch.allclose(values, often.state[name], atol=1e-5), name
    assert torch.equal(once.window_time[real], often.window_time[real])
    assert torch.equal(once.window_gap[real], often.window_gap[real])
    assert set(once.window) == set(model.features.events)
    for name, ids in once.window.items():
        assert torch.equal(ids[real], often.window[name][real])


@torch.no_grad()
def test_what_is_kept_does_not_grow_and_its_end_means_nothing(model: ClickModel) -> None:
    batch = user_batch([200, 7], [[200], [7]])
    memories = folded(model, batch, [batch.event_lengths])
    empty = model.no_memories(2)
    assert {n: v.shape for n, v in memories.state.items()} == {n: v.shape for n, v in empty.state.items()}
    assert memories.window_time.shape == empty.window_time.shape == (2, model.memory.cut.window_positions)
    hidden = (
        torch.arange(model.memory.cut.window_positions) >= model.memory.cut.window_length(memories.num_events)[:, None]
    )
    assert bool(hidden.any())
    other = replace(
        memories,
        window_time=memories.window_time.masked_fill(hidden, 7),
        window_gap=memories.window_gap.masked_fill(hidden, 3),
        window={name: ids.masked_fill(hidden, 1) for name, ids in memories.window.items()},
    )
    candidates = candidates_of(batch, torch.tensor([0, 1]))
    assert torch.equal(model.score(other, candidates), model.score(memories, candidates))
    later = user_batch([9, 9], [[], []], seed=5)
    later = replace(later, event_time=later.event_time + 100_000)
    more = events_between(later, torch.tensor([0, 0]), torch.tensor([9, 9]))
    for name, values in model.fold(other, more).state.items():
        assert torch.equal(values, model.fold(memories, more).state[name])


@torch.no_grad()
def test_memories_are_saved_and_chosen_row_by_row(model: ClickModel, tmp_path: Path) -> None:
    lengths = [0, 3, 27, 16]
    batch = user_batch(lengths, [[n, n] for n in lengths], seed=3)
    save_file(model.no_memories(4).tensors(), tmp_path / "nobody.safetensors")
    memories = folded(model, batch, [batch.event_lengths])
    save_file(memories.tensors(), tmp_path / "memories.safetensors")
    read = MemoryState.from_tensors(load_file(tmp_path / "memories.safetensors"))
    assert read.num_users == 4
    assert read.state.keys() == memories.state.keys() == model.no_memories(1).state.keys()
    assert set(read.window) == set(model.features.events)
    torch.testing.assert_close(read.tensors(), memories.tensors(), rtol=0, atol=0)
    torch.testing.assert_close(memories.to("cpu").tensors(), memories.tensors(), rtol=0, atol=0)
    # In another order, one of them twice: each is scored, and goes on, as it was.
    users = torch.tensor([3, 0, 2, 3])
    chosen = read.select(users)
    for name, values in memories.tensors().items():
        assert torch.equal(chosen.tensors()[name], values[users]), name
    impressions = torch.tensor([6, 0, 4, 7])
    expected = model.score(memories, candidates_of(batch, impressions))
    assert torch.allclose(model.score(chosen, candidates_of(batch, impressions, torch.arange(4))), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["num_events", "last_time", "window_time", "window_gap"])
def test_memories_that_lack_a_tensor_are_refused(name: str) -> None:
    tensors = click_model().no_memories(2).tensors()
    del tensors[name]
    with pytest.raises(BatchError, match=f"a memory state needs .*{name}.*; found no {name}$"):
        MemoryState.from_tensors(tensors)


def one_event(time: int, **keys: Tensor) -> Histories:
    return Histories(lengths=torch.tensor([0, 1]), time=torch.tensor([time]), keys=keys)


def test_events_that_are_late_are_refused_and_as_late_is_not_late() -> None:
    model = click_model()
    memories = model.fold(model.no_memories(2), one_event(100, **features(1)))
    message = r"first new event of user 1 has time 99, earlier than the last event in its memory \(100\); fold events"
    with pytest.raises(BatchError, match=message):
        model.fold(memories, one_event(99, **features(1)))
    assert model.fold(memories, one_event(100, **features(1))).num_events.tolist() == [0, 2]
    # Whoever has no events yet has none that is later, and whoever gets none has none that is late.
    early = Histories(lengths=torch.tensor([1, 0]), time=torch.tensor([5]), keys=features(1))
    assert model.fold(memories, early).last_time.tolist() == [5, 100]


@pytest.mark.parametrize("names", [["item"], ["item", "shelf"], ["item", "category", "shelf"]], ids=str)
def test_events_of_other_keys_than_the_memorys_are_refused(names: list[str]) -> None:
    model = click_model()
    memories = model.fold(model.no_memories(2), one_event(100, **features(1)))
    other = one_event(101, **dict.fromkeys(names, torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(BatchError, match=r"the memories keep category, item of each event, these histories have"):
        model.fold(memories, other)


def test_histories_of_another_number_of_users_are_refused() -> None:
    model = click_model()
    with pytest.raises(BatchError, match="there are memories of 3 users, but histories of 2"):
        model.fold(model.no_memories(3), one_event(100, **features(1)))


@torch.no_grad()
def test_the_gap_before_a_nights_first_event_is_known() -> None:
    model = click_model()
    events = [Histories(lengths=torch.tensor([1]), time=torch.tensor([t]), keys=features(1)) for t in (100, 163)]
    memories = model.fold(model.fold(model.no_memories(1), events[0]), events[1])
    assert memories.window_gap[0, :2].tolist() == [64, 6]  # none before the first; 63 after it: floor(log2(64))


def features(count: int) -> dict[str, Tensor]:
    return {"item": torch.zeros(count, dtype=torch.int64), "category": torch.zeros(count, dtype=torch.int64)}


@torch.no_grad()
def test_only_writing_weights_change_what_is_written(model: ClickModel) -> None:
    batch = user_batch([200, 37], [[], []])
    before = folded(model, batch, [batch.event_lengths])
    writing = model.writing_weights()
    weights = model.state_dict()
    for name, weight in weights.items():
        if name not in writing:
            weight.add_(1.0)
    for name, values in folded(model, batch, [batch.event_lengths]).state.items():
        assert torch.equal(values, before.state[name])
    if not before.state:
        return  # without a machine nothing is written but events
    for name in writing:
        kept = weights[name].clone()
        weights[name].add_(torch.randn(kept.shape, generator=torch.Generator().manual_seed(1)))
        after = folded(model, batch, [batch.event_lengths]).state
        assert any(not torch.equal(after[part], values) for part, values in before.state.items()), name
        weights[name].copy_(kept)


def test_a_window_of_the_whole_history_is_no_memory() -> None:
    model = click_model(model_config(machine="none", window={"kind": "whole_history"}))
    with pytest.raises(ConfigError, match="whole history"):
        model.no_memories(1)


def test_places_and_lengths_of_windows() -> None:
    cut = Cut(segment_length=4, window_segments=2)
    assert (cut.window_events, cut.window_positions) == (11, 12)
    assert cut.window_length(torch.tensor([0, 3, 4, 11, 12, 1003])).tolist() == [0, 3, 4, 11, 8, 11]
    assert cut.num_full(torch.tensor([0, 3, 4, 11, 12, 1003])).tolist() == [0, 0, 1, 2, 2, 2]
