"""What a whole click model promises, with every machine, window, encoder and reader."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace
from rm_rec.model import ClickModel
from tests.fakes import (
    ENCODERS,
    KINDS,
    READERS,
    click_model,
    model_config,
    of_users,
    ragged_batch,
    user_batch,
    with_impressions,
)

WINDOWS: dict[str, dict[str, Any]] = {
    "tail": {"kind": "segments", "num_segments": 0},
    "tail+1": {"kind": "segments", "num_segments": 1},
    "tail+3": {"kind": "segments", "num_segments": 3},
    "last6": {"kind": "last_events", "num_events": 6},
    "whole": {"kind": "whole_history"},
}
# Every machine with every window; the encoder, which no window sees, with one; other readers with two machines.
MODELS = {f"{kind}-{window}": (kind, "none", window, "attention") for kind in ("none", *KINDS) for window in WINDOWS}
MODELS |= {
    f"{kind}-{encoder}-tail+1": (kind, encoder, "tail+1", "attention")
    for kind in KINDS
    for encoder in sorted(set(ENCODERS) - {"none"})
}
MODELS |= {
    f"{kind}-{reader}-tail+1": (kind, "none", "tail+1", reader)
    for kind in ("associative", "slot_gru")
    for reader in sorted(set(READERS) - {"attention"})
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> ClickModel:
    machine, encoder, window, reader = MODELS[request.param]
    config = model_config(machine=machine, encoder=encoder, window=WINDOWS[window], reader=READERS[reader])
    return click_model(config)


@pytest.fixture(scope="module")
def batch() -> UserBatch:
    return ragged_batch()


@torch.no_grad()
def logits(model: ClickModel, batch: UserBatch) -> Tensor:
    found: Tensor = model(batch)
    assert torch.isfinite(found).all()
    return found


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_a_batch_equals_its_users_one_by_one(model: ClickModel, batch: UserBatch) -> None:
    alone = [logits(model, of_users(batch, [user])) for user in range(batch.num_users)]
    together = logits(model, batch)
    assert together.std() > 0.01
    close(torch.cat(alone), together)


def test_the_order_of_users_does_not_matter(model: ClickModel, batch: UserBatch) -> None:
    order = [3, 6, 1, 0, 5, 4, 2]
    shuffled = logits(model, of_users(batch, order)).split([len(batch_of) for batch_of in _per_user(batch, order)])
    close(torch.cat([shuffled[order.index(user)] for user in range(batch.num_users)]), logits(model, batch))


def _per_user(batch: UserBatch, order: list[int]) -> list[Tensor]:
    impressions = batch.num_earlier.split(batch.impression_lengths.tolist())
    return [impressions[user] for user in order]


def test_the_order_of_a_users_impressions_does_not_matter(model: ClickModel, batch: UserBatch) -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.argsort(batch.impression_user + torch.rand(len(batch.label), generator=generator))
    assert not torch.equal(order, torch.arange(len(order)))
    close(logits(model, with_impressions(batch, order)), logits(model, batch)[order])


def test_an_impression_does_not_depend_on_which_others_are_asked(model: ClickModel, batch: UserBatch) -> None:
    history = batch.event_lengths[3]
    one = user_batch([int(history)], [[12]])
    one = replace(one, impression_time=one.event_time[-1:] + 1)
    # The same user and target, alone and beside copies that see more of the history.
    many = replace(
        one,
        impression_lengths=torch.tensor([3]),
        num_earlier=torch.tensor([12, 27, 5]),
        impression_time=one.impression_time.expand(3),
        targets={name: ids.expand(3) for name, ids in one.targets.items()},
        context={name: ids.expand(3) for name, ids in one.context.items()},
        context_dense=one.context_dense.expand(3, -1),
        label=one.label.expand(3),
    )
    close(logits(model, many)[:1], logits(model, one))


@pytest.mark.parametrize("seen", [0, 1, 4, 10, 12, 15])
def test_an_event_that_is_not_earlier_changes_no_logit(model: ClickModel, seen: int) -> None:
    batch = user_batch([19, 19], [[seen], [seen, seen]])
    later = torch.arange(19).repeat(2) >= seen
    changed = replace(
        batch,
        events={
            name: torch.where(later, (ids + 1) % model.features.rows[name], ids) for name, ids in batch.events.items()
        },
        event_time=torch.where(later, batch.event_time + 12_345, batch.event_time),
    )
    assert torch.equal(logits(model, changed), logits(model, batch))


def test_what_follows_the_impression_need_not_be_there(model: ClickModel) -> None:
    batch = user_batch([19], [[10, 12]])
    cut = replace(
        batch,
        event_lengths=torch.tensor([12]),
        event_time=batch.event_time[:12],
        events={name: ids[:12] for name, ids in batch.events.items()},
    )
    close(logits(model, cut), logits(model, batch))


@pytest.mark.parametrize("bptt_segments", [1, 2, 3])
def test_stretches_carry_the_state(model: ClickModel, batch: UserBatch, bptt_segments: int) -> None:
    config = model.config.model_copy(update={"bptt_segments": bptt_segments})
    short = ClickModel(config, model.features).eval()
    short.load_state_dict(model.state_dict())
    whole = model.config.window.kind == "whole_history"
    assert (len(list(short.stretches(batch))) > 1) != whole
    assert len(list(model.stretches(batch))) == 1
    close(logits(short, batch), logits(model, batch))


def test_stretches_answer_each_impression_once(model: ClickModel, batch: UserBatch) -> None:
    config = model.config.model_copy(update={"bptt_segments": 2})
    short = ClickModel(config, model.features)
    answered = torch.cat([output.impression for output in short.stretches(batch)])
    assert answered.sort().values.tolist() == list(range(len(batch.label)))


def test_a_batch_where_nobody_has_events_has_logits(model: ClickModel, batch: UserBatch) -> None:
    nobody = user_batch([0, 0], [[0], [0, 0]])
    found = model(nobody)
    assert torch.isfinite(found).all()
    found.sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name
    # Beside users with events, users without get the same.
    both = of_users(batch, [0, 3])
    close(logits(model, of_users(batch, [0])), logits(model, both)[:2])


def test_without_a_history_only_the_target_and_its_context_speak(model: ClickModel) -> None:
    two = user_batch([9, 0], [[0], [0]])
    same = replace(
        two,
        targets={name: ids[:1].expand(2) for name, ids in two.targets.items()},
        context={name: ids[:1].expand(2) for name, ids in two.context.items()},
        context_dense=two.context_dense[:1].expand(2, -1),
    )
    found = logits(model, same)
    close(found[:1], found[1:])


@pytest.mark.parametrize(
    ("event_lengths", "num_earlier"),
    [([], []), ([0], [[]]), ([9, 3], [[], []])],
    ids=["users", "events", "impressions"],
)
def test_a_batch_may_lack_anything(model: ClickModel, event_lengths: list[int], num_earlier: list[list[int]]) -> None:
    assert logits(model, user_batch(event_lengths, num_earlier)).shape == (0,)


def test_every_weight_learns(model: ClickModel, batch: UserBatch) -> None:
    (output,) = model.stretches(batch)
    penalty = model.memory.penalty(output.memory, batch.label[output.impression] > 0)
    (output.logits.square().sum() + (penalty if penalty is not None else 0.0)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().sum() > 0, name


def seen_events(model: ClickModel, num_events: int, num_earlier: int) -> set[int]:
    """Which events an impression depends on: one copy of the user for each event, with that event changed."""
    copies = num_events + 1
    one = user_batch([num_events], [[num_earlier]], features=model.features)
    changed = torch.cat([torch.zeros(1, num_events, dtype=torch.bool), torch.eye(num_events, dtype=torch.bool)])
    batch = UserBatch(
        event_lengths=torch.full((copies,), num_events),
        event_time=one.event_time.repeat(copies),
        events={
            name: ((ids + changed) % model.features.rows[name]).flatten().contiguous()
            for name, ids in one.events.items()
        },
        impression_lengths=torch.ones(copies, dtype=torch.int64),
        impression_time=one.impression_time.expand(copies),
        num_earlier=one.num_earlier.expand(copies),
        targets={name: ids.expand(copies) for name, ids in one.targets.items()},
        context={name: ids.expand(copies) for name, ids in one.context.items()},
        context_dense=one.context_dense.expand(copies, -1),
        label=one.label.expand(copies),
    )
    found = logits(model, batch)
    return set(torch.nonzero((found[1:] - found[0]).abs() > 1e-6).flatten().tolist())


@pytest.mark.parametrize("segment_length", [7, 10, 25, 32, 50, 64])
def test_din_50_sees_exactly_the_last_50_events(segment_length: int) -> None:
    model = click_model(
        model_config(
            machine="none",
            segment_length=segment_length,
            bptt_segments=2,
            window={"kind": "last_events", "num_events": 50},
        )
    )
    for num_earlier in (0, 1, 49, 50, 51, 64, 99, 100, 101):
        assert seen_events(model, 110, num_earlier) == set(range(max(num_earlier - 50, 0), num_earlier)), num_earlier


def test_din_full_sees_every_earlier_event() -> None:
    model = click_model(model_config(machine="none", bptt_segments=1, window={"kind": "whole_history"}))
    for num_earlier in (0, 1, 4, 23, 40, 41):
        assert seen_events(model, 41, num_earlier) == set(range(num_earlier))


@pytest.mark.parametrize("num_segments", [0, 1, 2])
def test_a_window_of_segments_sees_the_tail_and_the_last_full_segments(num_segments: int) -> None:
    window = {"kind": "segments", "num_segments": num_segments}
    model = click_model(model_config(machine="none", bptt_segments=2, window=window))
    for num_earlier in (0, 1, 3, 4, 5, 8, 17, 20):
        first = max(num_earlier // 4 - num_segments, 0) * 4
        assert seen_events(model, 21, num_earlier) == set(range(first, num_earlier)), num_earlier


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_and_its_window_see_every_earlier_event(kind: str, encoder: str) -> None:
    model = click_model(model_config(machine=kind, encoder=encoder, window=WINDOWS["tail"]))
    for num_earlier in (0, 1, 4, 18, 20):
        assert seen_events(model, 21, num_earlier) == set(range(num_earlier)), num_earlier


@pytest.mark.parametrize("window", ["tail", "tail+1", "tail+3"])
@pytest.mark.parametrize("bptt_segments", [1, 2, 3])
def test_gradients_flow_through_bptt_segments_writes_and_no_further(bptt_segments: int, window: str) -> None:
    num_events = 42
    features = FeatureSpace(rows={"item": num_events, "shelf": 3}, events=("item",), targets=("shelf",))
    config = model_config(bptt_segments=bptt_segments, window=WINDOWS[window])
    model = click_model(config, features)
    # Asked at each moment, so that every stretch is folded with gradient; what is followed is the last answer's.
    batch = user_batch([num_events], [[*range(num_events + 1)]], features=features)
    batch = replace(batch, events={"item": torch.arange(num_events)})  # each event its own row
    *_, output = model.stretches(batch)
    output.logits[output.impression == num_events].sum().backward()
    grad = model.embedding.collection.embeddings["item"].weight.grad
    assert grad is not None
    reached = set(torch.nonzero(grad.abs().sum(dim=1)).flatten().tolist())
    num_segments = max(bptt_segments, model.memory.window.num_segments)
    assert reached == set(range((num_events // 4 - num_segments) * 4, num_events))


def test_a_stretch_without_impressions_is_folded_without_gradient() -> None:
    model = click_model(model_config(bptt_segments=2))
    outputs = list(model.stretches(user_batch([40], [[1, 40]])))
    assert [output.impression.tolist() for output in outputs] == [[0], [1]]
    with torch.no_grad():
        assert not next(iter(model.stretches(user_batch([9], [[9]])))).logits.requires_grad
