"""A probe finds what a memory holds and no more, asks only what has been folded, and leaves the model as it was."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec
from rm_rec.model import ClickModel
from rm_rec.rehearsal.probe import (
    FRAGMENT_LENGTH,
    NUM_MASKED,
    Questions,
    RecollectionProbe,
    draw_questions,
    join,
    last_questions,
)
from rm_rec.user_memory import UserMemory
from tests.support.fakes import KINDS, click_model, model_config, user_batch

ITEMS = FeatureSpace(rows={"item": 2000}, events=("item",), targets=("item",))
LONG = user_batch([70, 9, 33, 64, 20], [[70, 3], [9], [33, 20, 33], [12, 64], [1, 15]])


class PerfectMachine(MemoryMachine):
    """Keeps the first 16 events as they are: slot n is the nth event, found by a code of its place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.slot_dim = dim
        self.place: Tensor
        self.register_buffer("place", torch.eye(FRAGMENT_LENGTH).repeat(1, dim // FRAGMENT_LENGTH))

    def state_spec(self) -> StateSpec:
        return {"events": (FRAGMENT_LENGTH, self.slot_dim), "folded": ()}

    def initial(self, num_users: int) -> State:
        return {name: torch.zeros(num_users, *shape) for name, shape in self.state_spec().items()}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        takes = valid.all(dim=1) & (state["folded"] == 0)
        events = torch.where(takes[:, None, None], segment, state["events"])
        return {"events": events, "folded": state["folded"] + takes}

    def slots(self, state: State) -> Slots:
        valid = (state["folded"] > 0)[:, None].expand(-1, FRAGMENT_LENGTH)
        return Slots(self.place.expand(len(valid), -1, -1) * 8, state["events"], valid)


def perfect_model() -> ClickModel:
    config = model_config(token_dim=64, segment_length=FRAGMENT_LENGTH, machine="mean_pool", embedding_std=1.0)
    model = ClickModel(config, ITEMS)
    model.memory = UserMemory(config, machine=PerfectMachine(64))
    return model.eval()


def taught(model: ClickModel, questions: Questions, steps: int, **settings: Any) -> RecollectionProbe:
    probe = RecollectionProbe(model, seed=0, **settings)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-2)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(questions), (64,), generator=random)
        loss, _, _ = probe(model, questions.select(rows), drawn_items(random), random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe.eval()


def drawn_items(random: torch.Generator) -> dict[str, Tensor]:
    return {"item": torch.randint(ITEMS.rows["item"], (99,), generator=random)}


def accuracy(probe: RecollectionProbe, model: ClickModel, questions: Questions) -> float:
    random = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        _, picked, _ = probe(model, questions, drawn_items(random), random)
    assert picked.shape == (len(questions), NUM_MASKED)
    return picked.double().mean().item()


def test_what_a_perfect_memory_holds_is_found_and_nothing_without_it() -> None:
    model = perfect_model()
    users = 400
    batch = user_batch([FRAGMENT_LENGTH] * users, [[FRAGMENT_LENGTH]] * users, features=ITEMS)
    questions = last_questions(model, batch)
    assert len(questions) == users
    first, second = questions.select(torch.arange(200)), questions.select(torch.arange(200, 400))
    reader = taught(model, first, steps=80)
    assert accuracy(reader, model, second) > 0.9
    assert accuracy(reader, model, second.of_another_user()) < 0.05
    assert accuracy(taught(model, first, steps=30, reads_memory=False), model, second) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_and_its_callers_draws_are_left_as_they_were(kind: str) -> None:
    model = click_model(model_config(machine=kind))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    drawn = torch.get_rng_state()
    random = torch.Generator().manual_seed(0)
    probe = RecollectionProbe(model, seed=3)
    for questions in (draw_questions(model, LONG, 4, random), last_questions(model, LONG)):
        loss, _, _ = probe(model, questions, {name: ids[:30] for name, ids in LONG.events.items()}, random)
        loss.backward()
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in probe.decoder.parameters())


def test_probes_of_one_seed_start_alike() -> None:
    models = [click_model(seed=seed) for seed in (0, 1)]
    weights = [RecollectionProbe(model, seed=5).state_dict() for model in models]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = RecollectionProbe(models[0], seed=6).state_dict()
    assert any(not torch.equal(values, other[name]) for name, values in weights[0].items())


def last_questions_slowly(batch: UserBatch, segment_length: int) -> list[tuple[int, list[int], list[int]]]:
    """List user, ages and items of every whole fragment that each user's last impression's state has folded."""
    found = []
    event = impression = 0
    for user, length in enumerate(batch.event_lengths.tolist()):
        items = batch.events["item"][event : event + length].tolist()
        seen = batch.num_earlier[impression : impression + int(batch.impression_lengths[user])].tolist()
        boundary = max(seen) // segment_length
        for first in range(0, boundary * segment_length - FRAGMENT_LENGTH + 1, FRAGMENT_LENGTH):
            places = range(first, first + FRAGMENT_LENGTH)
            found.append(
                (user, [boundary - place // segment_length for place in places], [items[place] for place in places])
            )
        event, impression = event + length, impression + len(seen)
    return found


@pytest.mark.parametrize("segment_length", [4, 5, 16, 32])
def test_the_last_state_is_asked_for_all_that_it_has_folded(segment_length: int) -> None:
    model = click_model(model_config(segment_length=segment_length))
    questions = last_questions(model, LONG)
    found = zip(questions.user.tolist(), questions.age.tolist(), questions.events["item"].tolist(), strict=True)
    assert list(found) == last_questions_slowly(LONG, segment_length)
    assert int(questions.age.min()) >= 1


def test_drawn_questions_are_of_older_events_of_the_same_user() -> None:
    model = click_model()
    questions = join([draw_questions(model, LONG, 5, torch.Generator().manual_seed(seed)) for seed in range(30)])
    questions = replace(questions, user=questions.user % LONG.num_users)
    assert set(questions.user.tolist()) == {0, 2, 3}
    assert (int(questions.age.min()), int(questions.age.max())) == (1, 70 // 4)
    first = LONG.event_lengths.cumsum(0) - LONG.event_lengths
    for user, events in zip(questions.user.tolist(), questions.events["item"].tolist(), strict=True):
        history = LONG.events["item"][first[user] : first[user] + LONG.event_lengths[user]].tolist()
        starts = range(0, len(history) - FRAGMENT_LENGTH + 1, FRAGMENT_LENGTH)
        assert events in [history[start : start + FRAGMENT_LENGTH] for start in starts]


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_those_of_the_state_that_is_asked(kind: str) -> None:
    """However long the stretches, a user's slots are what folding that user's segments one by one gives."""
    model = click_model(model_config(machine=kind, bptt_segments=2))
    slots = last_questions(model, LONG).slots
    whole = click_model(model_config(machine=kind, bptt_segments=64))
    for user, seen in enumerate((70, 9, 33, 64, 15)):
        alone = user_of(LONG, user, seen)
        (output,) = list(whole.stretches(alone))
        assert whole.memory.slots is not None
        expected = whole.memory.slots.slots(output.memory.trace, torch.tensor([0]), torch.tensor([seen // 4]))
        torch.testing.assert_close(slots.keys[user : user + 1], expected.keys)
        torch.testing.assert_close(slots.values[user : user + 1], expected.values)
        assert torch.equal(slots.valid[user : user + 1], expected.valid)
        assert (slots.log_weight is None) == (expected.log_weight is None)
        if slots.log_weight is not None:
            torch.testing.assert_close(slots.log_weight[user : user + 1], expected.log_weight)


def user_of(batch: UserBatch, user: int, seen: int) -> UserBatch:
    """One user's first events, with one impression after them."""
    first = int(batch.event_lengths[:user].sum())
    alone = user_batch([seen], [[seen]])
    events = {name: ids[first : first + seen] for name, ids in batch.events.items()}
    time = batch.event_time[first : first + seen]
    return replace(alone, event_time=time, events=events, impression_time=time[-1:] + 1)


def test_joined_questions_ask_each_their_own_memory() -> None:
    model = click_model()
    parts = [last_questions(model, LONG), last_questions(model, user_batch([16, 40], [[16], [40]], seed=1))]
    joined = join(parts)
    assert len(joined) == sum(map(len, parts))
    assert joined.user.tolist() == [*parts[0].user.tolist(), *(parts[1].user + 5).tolist()]
    first = joined.slots.keys.index_select(0, joined.user)
    torch.testing.assert_close(first, torch.cat([part.slots.keys[part.user] for part in parts]))
    others = joined.of_another_user()
    assert torch.equal(others.slots.keys[1:], joined.slots.keys[:-1])
    assert torch.equal(others.slots.keys[0], joined.slots.keys[-1])
    assert torch.equal(others.user, joined.user)


def test_no_weight_of_the_model_is_the_probes() -> None:
    model = click_model()
    probe: nn.Module = RecollectionProbe(model, seed=0)
    mine = {id(weight) for weight in probe.parameters()}
    assert not mine & {id(weight) for weight in model.parameters()}
