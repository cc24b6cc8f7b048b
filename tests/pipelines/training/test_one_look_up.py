"""However a batch is cut, it is looked up once, goes backward once, and learns what one plain graph would."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.training.fit import Learner
from rm_rec.batch import Candidates
from rm_rec.config import RehearsalConfig
from rm_rec.histories import Histories
from rm_rec.model import ClickModel
from tests.support.fakes import FEATURES, READERS, click_model, model_config, ragged_batch, scrambled, user_batch
from tests.support.rehearsed import random, rehearsal_config

REHEARSALS = {"none": None, "uniform": rehearsal_config(), "student": rehearsal_config(sampler="student")}
# A machine and a reader with losses of their own.
LOSSES: dict[str, Any] = {"machine": "expire_span", "reader": READERS["supporting_facts"]}


def learner(rehearsal: RehearsalConfig | None, **settings: Any) -> Learner:
    return scrambled(Learner(ClickModel(model_config(**settings), FEATURES), rehearsal))


@contextmanager
def calls_of(module: nn.Module) -> Iterator[Counter[str]]:
    """Count how often a module goes forward."""
    counts: Counter[str] = Counter()
    handle = module.register_forward_hook(lambda *_: counts.update(["forward"]))
    yield counts
    handle.remove()


@pytest.mark.parametrize("bptt_segments", [1, 2, 32])
@pytest.mark.parametrize("rehearsal", REHEARSALS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_batch_is_looked_up_once(training: bool, rehearsal: str, bptt_segments: int) -> None:
    made, batch = learner(REHEARSALS[rehearsal], bptt_segments=bptt_segments).train(training), ragged_batch()
    assert (len(list(made.model.stretches(batch))) > 1) == (bptt_segments < 32)
    with calls_of(made.model.embedding.collection) as calls:
        made(batch, random()).loss.backward()
        assert calls["forward"] == 1
        made.model(batch)
        assert calls["forward"] == 2


def test_a_night_and_a_day_are_looked_up_once_each() -> None:
    model = click_model(model_config(bptt_segments=1))
    batch = user_batch([30, 7], [[30], [7]])
    histories = batch.histories()
    with torch.no_grad(), calls_of(model.embedding.collection) as calls:
        memories = model.fold(
            model.no_memories(2), Histories(lengths=histories.lengths, time=histories.time, keys=batch.events)
        )
        assert calls["forward"] == 1
        model.score(memories, _candidates(model))
        assert calls["forward"] == 2


def _candidates(model: ClickModel) -> Candidates:
    return Candidates(
        user=torch.tensor([1, 0, 0]),
        time=torch.full((3,), 2**40),
        targets={name: torch.tensor([1, 2, 3]) for name in model.features.targets},
        context={name: torch.tensor([1, 2, 3]) for name in model.features.context},
        context_dense=torch.zeros(3, 2),
    )


@pytest.mark.parametrize("bptt_segments", [1, 2, 32])
@pytest.mark.parametrize("rehearsal", REHEARSALS)
def test_each_weight_has_one_gradient_a_batch(rehearsal: str, bptt_segments: int) -> None:
    made = learner(REHEARSALS[rehearsal], bptt_segments=bptt_segments, **LOSSES).train()
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[[Tensor], None]:
        return lambda _: counts.update([name])

    for name, weight in made.named_parameters():
        weight.register_post_accumulate_grad_hook(counted(name))
    made(ragged_batch(), random()).loss.backward()
    # A softmax does not see a bias that all its logits share, but has a gradient for it: zero.
    assert counts == {name: 1 for name, _ in made.named_parameters()}


def by_one_graph(made: Learner, batch: Any) -> Tensor:
    """The same loss as a learner's, of one graph for all stretches, written out."""
    vectors, memory = made.model.embed(batch), made.model.memory
    rehearsal = None
    if made.rehearsal is not None:
        rehearsal = made.rehearsal.begin(
            memory,
            batch.histories(vectors.events),
            batch.queries(vectors.targets),
            content=vectors.content,
            label=batch.label,
            generator=random(),
        )
    losses = []
    for output in made.model.stretches(batch, vectors):
        label = batch.label[output.impression]
        share = len(label) / len(batch.label)
        losses.append(share * nn.functional.binary_cross_entropy_with_logits(output.logits, label))
        penalty = memory.penalty(output.memory, label > 0.5)
        if penalty is not None:
            losses.append(share * penalty)
        rehearsed = rehearsal.loss(output.memory) if rehearsal is not None else None
        if rehearsed is not None:
            losses.append(share * rehearsed.loss)
    return torch.stack(losses).sum()


@pytest.mark.parametrize("bptt_segments", [1, 3, 32])
@pytest.mark.parametrize("rehearsal", REHEARSALS)
def test_a_long_user_teaches_what_one_plain_graph_does(rehearsal: str, bptt_segments: int) -> None:
    ours, plain = (
        learner(REHEARSALS[rehearsal], bptt_segments=bptt_segments, **LOSSES, token_dropout=0.0) for _ in range(2)
    )
    # Asked now and then; stretches without an impression lie between.
    batch = user_batch([70, 9, 0], [[70, 68, 33, 33, 12, 3, 0], [9, 5], [0]])
    outcome, expected = ours(batch, random()), by_one_graph(plain, batch)
    torch.testing.assert_close(outcome.loss, expected)
    outcome.loss.backward()
    expected.backward()
    own = dict(ours.named_parameters())
    for name, weight in plain.named_parameters():
        grad = own[name].grad
        assert (grad is None) == (weight.grad is None), name
        if weight.grad is not None and grad is not None:
            torch.testing.assert_close(grad, weight.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_gradients_of_events_are_those_of_one_plain_graph_event_by_event() -> None:
    features = FEATURES.model_copy(update={"rows": FEATURES.rows | {"item": 81}})
    batch = user_batch([70], [[*range(0, 71, 7)]], features=features)
    batch = replace(
        batch,
        events=batch.events | {"item": torch.arange(70)},
        targets=batch.targets | {"item": 70 + torch.arange(11)},
    )
    gradients = []
    for loss_of in (lambda made: made(batch, random()).loss, lambda made: by_one_graph(made, batch)):
        model = ClickModel(model_config(bptt_segments=2, token_dropout=0.0), features)
        made = scrambled(Learner(model, rehearsal_config()))
        loss_of(made).backward()
        gradients.append(made.model.embedding.collection.embeddings["item"].weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-4)
    assert gradients[0].any(dim=1).all(), "each event and each target is an item of its own, and learns"


def test_the_loss_weighs_stretches_by_their_impressions() -> None:
    batch = user_batch([30, 3], [[30], [3, 2, 1]])
    losses = [learner(None, bptt_segments=segments, token_dropout=0.0)(batch, random()) for segments in (1, 2, 32)]
    for one, other in pairwise(losses):
        torch.testing.assert_close(one.loss, other.loss)
        assert one.click_loss == pytest.approx(other.click_loss)
        assert one.click_loss == pytest.approx(4 * one.loss.item())
