"""Rehearsal with every machine and none, every kind of candidates and every sampler."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import RehearsalConfig
from rm_rec.errors import ConfigError
from rm_rec.model import ClickModel
from rm_rec.rehearsal.objective import RehearsalLoss, RehearsalObjective
from tests.support.fakes import ENCODERS, KINDS, click_model, model_config, ragged_batch, user_batch
from tests.support.rehearsed import begun, rehearsal_config, rehearsal_objective

CANDIDATES = ("fragment", "batch", "sampled")
SAMPLERS = ("uniform", "teacher", "student")
PARTS = ("recollection", "familiarity")
# Each machine with each kind of candidates; samplers in turns, so that each meets all of both.
IN_TURNS = [
    (kind, candidates, SAMPLERS[(row + column) % 3])
    for row, kind in enumerate(["none", *KINDS])
    for column, candidates in enumerate(CANDIDATES)
]


def losses(
    objective: RehearsalObjective, model: ClickModel, batch: UserBatch, seed: int = 0
) -> Iterator[RehearsalLoss | None]:
    rehearsal, outputs = begun(objective, model, batch, seed)
    for output in outputs:
        yield rehearsal.loss(output.memory)


def whole_loss(objective: RehearsalObjective, model: ClickModel, batch: UserBatch, seed: int = 0) -> Tensor:
    """Return the loss of a batch of one stretch."""
    (loss,) = losses(objective, model, batch, seed)
    assert loss is not None
    return loss.loss


def learnt(module: nn.Module) -> set[str]:
    """The weights with a gradient that is not zero."""
    for name, weight in module.named_parameters():
        assert weight.grad is None or torch.isfinite(weight.grad).all(), name
    return {name for name, weight in module.named_parameters() if weight.grad is not None and weight.grad.any()}


@pytest.mark.parametrize(("kind", "candidates", "sampler"), IN_TURNS)
def test_all_that_rehearsal_touches_learns(kind: str, candidates: str, sampler: str) -> None:
    model = click_model(model_config(machine=kind))
    objective = rehearsal_objective(model, rehearsal_config(candidates=candidates, sampler=sampler))
    loss = whole_loss(objective, model, ragged_batch())
    assert 0 < loss.item() < math.inf
    loss.backward()
    if model.memory.slots is not None:
        machine = model.memory.slots.machine
        assert learnt(machine) == {name for name, _ in machine.named_parameters()}
    assert learnt(model.embedding) >= {f"collection.embeddings.{name}.weight" for name in ("item", "category")}
    # A softmax does not see a bias that all its logits share.
    unseen = {"sampler.student.score.2.bias"} if sampler == "student" else set()
    assert learnt(objective) | unseen == {name for name, _ in objective.named_parameters()}
    # What it does not ask stays as it is.
    assert not learnt(model.head)
    assert not learnt(model.memory.window)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_learns_too(kind: str) -> None:
    model = click_model(model_config(machine=kind, encoder="transformer"))
    whole_loss(rehearsal_objective(model), model, ragged_batch()).backward()
    assert model.memory.slots is not None
    encoder = model.memory.slots.encoder
    assert learnt(encoder) == {name for name, _ in encoder.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize(("kind", "candidates", "sampler"), IN_TURNS)
def test_the_generator_alone_decides_what_is_asked(kind: str, candidates: str, sampler: str) -> None:
    model = click_model(model_config(machine=kind, bptt_segments=2))
    objective = rehearsal_objective(model, rehearsal_config(candidates=candidates, sampler=sampler))
    batch = user_batch([27, 16, 9, 0], [[27, 11, 3], [16, 8], [5], [0]])

    def all_losses(seed: int) -> list[float]:
        return [float(found.loss) for found in losses(objective, model, batch, seed) if found is not None]

    torch.manual_seed(1)
    first = all_losses(seed=5)
    torch.manual_seed(2)
    assert len(first) == 3
    assert all_losses(seed=5) == first
    assert all_losses(seed=6) != first


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_is_its_weighted_parts_and_the_samplers(encoder: str) -> None:
    model = click_model(model_config(encoder=encoder))
    config = rehearsal_config(recollection_weight=0.3, familiarity_weight=0.05, sampler="student")
    (found,) = losses(rehearsal_objective(model, config), model, ragged_batch())
    assert found is not None
    figures = found.figures
    expected = 0.3 * figures["recollection_loss"] + 0.05 * figures["familiarity_loss"] + figures["sampler_loss"]
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)
    assert figures.keys() == {
        *(f"{part}_{figure}" for part in PARTS for figure in ("loss", "accuracy")),
        "sampler_loss",
    }
    assert 0 <= figures["recollection_accuracy"] <= 1
    assert 0 < figures["familiarity_accuracy"] < 1


@torch.no_grad()
@pytest.mark.parametrize("left_out", PARTS)
def test_a_part_of_weight_0_is_not_there(left_out: str) -> None:
    model = click_model()
    objective = rehearsal_objective(model, rehearsal_config(**{f"{left_out}_weight": 0.0}))
    (kept,) = set(PARTS) - {left_out}
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert left_out not in names
    assert kept in names
    (found,) = losses(objective, model, ragged_batch())
    assert found is not None
    assert found.figures.keys() == {f"{kept}_loss", f"{kept}_accuracy"}
    assert float(found.loss) == pytest.approx(found.figures[f"{kept}_loss"])


def test_without_either_part_there_is_nothing_to_train() -> None:
    with pytest.raises(ValidationError, match="recollection_weight and familiarity_weight are both 0"):
        rehearsal_config(recollection_weight=0.0, familiarity_weight=0.0)


@pytest.mark.parametrize("sampler", ["uniform", "teacher"])
def test_a_user_alone_cannot_be_asked_what_is_familiar(sampler: str) -> None:
    model = click_model()
    objective = rehearsal_objective(model, rehearsal_config(recollection_weight=0.0, sampler=sampler))
    (found,) = losses(objective, model, user_batch([12], [[12]]))
    if sampler == "uniform":
        assert found is None
    else:
        assert found is not None
        assert found.figures.keys() == {"sampler_loss"}


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["uniform", "student"])
@pytest.mark.parametrize("warm_up_steps", [0, 1, 4])
def test_the_first_steps_count_less_but_teach_the_sampler_in_full(warm_up_steps: int, sampler: str) -> None:
    model, batch = click_model(), ragged_batch()
    cold = rehearsal_objective(model, rehearsal_config(sampler=sampler, warm_up_steps=warm_up_steps)).train()
    for step in range(warm_up_steps + 3):
        (found,) = losses(cold, model, batch, seed=step)
        assert found is not None
        share = min(1.0, (step + 1) / (warm_up_steps + 1))
        parts = found.figures["recollection_loss"] + found.figures["familiarity_loss"]
        expected = share * parts + found.figures.get("sampler_loss", 0.0)
        assert float(found.loss) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_steps_are_counted_once_a_batch_in_training_only_and_kept() -> None:
    model = click_model(model_config(bptt_segments=1))
    objective = rehearsal_objective(model, rehearsal_config(warm_up_steps=9))

    def rehearse(times: int) -> int:
        for _ in range(times):
            assert len(list(losses(objective, model, ragged_batch()))) > 1
        return int(objective.steps_done)

    assert rehearse(2) == 0
    objective.train()
    assert rehearse(3) == 3
    objective.eval()
    assert rehearse(2) == 3
    other = rehearsal_objective(model, rehearsal_config(warm_up_steps=9), seed=5)
    other.load_state_dict(objective.state_dict())
    assert int(other.steps_done) == 3
    # It goes on from there.
    batch = user_batch([9, 9], [[9], [9]])
    assert torch.equal(torch.stack([*parts(other, model, batch)]), torch.stack([*parts(objective, model, batch)]))


def parts(objective: RehearsalObjective, model: ClickModel, batch: UserBatch) -> Iterator[Tensor]:
    return (found.loss for found in losses(objective, model, batch) if found is not None)


@pytest.mark.parametrize(("fragment_length", "mask_ratio"), [(2, 0.01), (2, 0.99), (5, 0.99), (5, 0.01), (16, 0.5)])
def test_something_is_masked_and_something_shown(fragment_length: int, mask_ratio: float) -> None:
    model = click_model()
    objective = rehearsal_objective(model, rehearsal_config(fragment_length=fragment_length, mask_ratio=mask_ratio))
    masks: list[Tensor] = []
    objective.decoder.register_forward_pre_hook(lambda _, given: masks.append(given[1]))
    whole_loss(objective, model, ragged_batch())
    num_masked = masks[0].sum(dim=1)
    assert masks[0].shape[1] == fragment_length
    assert (num_masked == max(1, min(fragment_length - 1, round(fragment_length * mask_ratio)))).all()


def test_heads_that_do_not_divide_the_models_vectors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rehearsal.num_heads is 3, which does not divide token_dim 8"):
        RehearsalObjective(rehearsal_config(num_heads=3), click_model().memory)


WRONG: list[dict[str, Any]] = [
    {"recollection_weight": -0.1},
    {"familiarity_weight": -0.1},
    {"fragments_per_user": 0},
    {"fragment_length": 1},
    {"mask_ratio": 0.0},
    {"mask_ratio": 1.0},
    {"replace_ratio": 0.0},
    {"replace_ratio": 1.1},
    {"candidates": "all"},
    {"num_candidates": 0},
    {"num_layers": 0},
    {"num_heads": 0},
    {"warm_up_steps": -1},
    {"sampler": {"kind": "uniform", "uniform_share": 0.5}},
    {"sampler": {"kind": "teacher", "uniform_share": 1.1}},
    {"sampler": {"kind": "student", "max_queries": 0}},
    {"fragments": 3},
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_a_config_out_of_bounds_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        RehearsalConfig.model_validate(settings)
