"""Rehearsal teaches a memory what it is asked for; another user's memory and a fragment alone do not know it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace
from rm_rec.model import ClickModel
from rm_rec.rehearsal.objective import RehearsalObjective
from tests.support.fakes import KINDS, model_config, user_batch
from tests.support.rehearsed import begun, of_the_next_user, random, rehearsal_config

PLACES, OWN = 4, 6  # of a fragment; items that can be at each place
SPACE = FeatureSpace(rows={"item": PLACES * OWN}, events=("item",), targets=("item",))
SIZES: dict[str, dict[str, float]] = {
    kind: {"num_slots": 4, "slot_dim": 16} for kind in ("slot_gru", "associative", "learned_queries")
}
SIZES["count_sketch"] = {"num_buckets": 64}
SIZES["hpmn"] = {"keep_bias": 1.0}  # by default its gates keep too much to take in a history of eight events
Batches = Callable[[int, int], UserBatch]
WITHOUT_EITHER = {"recollection_weight": 0.0, "familiarity_weight": 0.0}


def repeated(own: Tensor, times: int, seed: int) -> UserBatch:
    """Users who do the same over and over, each asked once, after all of it."""
    num_users, length = own.shape[0], own.shape[1] * times
    batch = user_batch([length] * num_users, [[length]] * num_users, seed, SPACE)
    return replace(batch, events={"item": own.repeat(1, times).flatten()})


def four_habits(num_users: int, seed: int) -> UserBatch:
    """At each place of four, each user has an item of its own: what is shown says nothing of what is masked."""
    own = torch.randint(OWN, (num_users, PLACES), generator=random(seed)) + OWN * torch.arange(PLACES)
    return repeated(own, 2, seed)


def one_habit(num_users: int, seed: int) -> UserBatch:
    """Each user has one item of eight: one event of a fragment says nothing of whose it is."""
    return repeated(torch.randint(8, (num_users, 1), generator=random(seed)), 4, seed)


def learnt(kind: str, batches: Batches, steps: int, **settings: Any) -> tuple[RehearsalObjective, ClickModel]:
    torch.manual_seed(0)
    model = ClickModel(
        model_config(token_dim=16, machine={"kind": kind} | SIZES.get(kind, {}), token_dropout=0.0), SPACE
    )
    objective = RehearsalObjective(rehearsal_config(**WITHOUT_EITHER | settings), model.memory)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        rehearsal, outputs = begun(objective, model, batches(24, step), seed=step)
        for output in outputs:
            found = rehearsal.loss(output.memory)
            assert found is not None
            found.loss.backward()
        optimizer.step()
    return objective.eval(), model.eval()


@torch.no_grad()
def accuracies(objective: RehearsalObjective, model: ClickModel, batch: UserBatch, part: str) -> list[float]:
    """How often the objective is right with each user's own memory, and with the next user's."""
    found = []
    for change in (lambda stretch: stretch, of_the_next_user):
        rehearsal, outputs = begun(objective, model, batch)
        (output,) = outputs
        loss = rehearsal.loss(change(output.memory))
        assert loss is not None
        found.append(loss.figures[f"{part}_accuracy"])
    return found


RECOLLECTION = {"recollection_weight": 1.0, "fragment_length": PLACES, "num_heads": 4}
FAMILIARITY = {"familiarity_weight": 1.0, "fragment_length": 2, "num_heads": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_recollects_what_its_user_did(kind: str) -> None:
    # Who knows a place's items alone is right one time in six.
    own, others = accuracies(
        *learnt(kind, four_habits, steps=60, **RECOLLECTION), four_habits(64, seed=10**6), "recollection"
    )
    assert own > 0.8
    assert others < 0.3


def test_without_a_memory_nothing_but_the_place_is_recollected() -> None:
    own, _ = accuracies(
        *learnt("none", four_habits, steps=60, **RECOLLECTION), four_habits(64, seed=10**6), "recollection"
    )
    assert own < 0.3


# That every machine learns from this part too is seen in one step (test_objective.py); most take 200 to be right.
@pytest.mark.parametrize("kind", ["associative", "expire_span", "mean_pool"])
def test_a_memory_tells_its_users_events_from_others(kind: str) -> None:
    # One mixed fragment in eight is no other than a true one.
    own, others = accuracies(
        *learnt(kind, one_habit, steps=60, **FAMILIARITY),
        one_habit(256, seed=10**6),
        "familiarity",
    )
    assert own > 0.75
    assert others < 0.55


def test_without_a_memory_one_event_is_as_familiar_as_another() -> None:
    own, _ = accuracies(*learnt("none", one_habit, steps=60, **FAMILIARITY), one_habit(256, seed=10**6), "familiarity")
    assert abs(own - 0.5) < 0.05
