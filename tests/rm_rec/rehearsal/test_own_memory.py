"""Each fragment meets its own user's memory, at the moment it was drawn for, and no other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rm_rec.user_memory import StretchAnswers
from tests.support.fakes import KINDS
from tests.support.rehearsed import (
    distinct_batch,
    distinct_model,
    named_states,
    names_of,
    of_the_next_user,
    rehearsal_config,
    rehearsal_objective,
    rehearse,
)

BATCH = distinct_batch([2, 21, 0, 16, 9], [[2], [21, 1, 9, 14], [0], [16, 3], [9]])
FIRST = BATCH.event_lengths.cumsum(0) - BATCH.event_lengths


def cut_off(stretch: StretchAnswers) -> StretchAnswers:
    """The stretch with states that come from nowhere."""
    return replace(stretch, trace={name: values.detach().requires_grad_() for name, values in stretch.trace.items()})


def states_behind(answer: Tensor, stretch: StretchAnswers) -> list[list[int]]:
    """Which users' states, at which boundaries of the stretch, an answer depends on."""
    states = list(stretch.trace.values())
    gradients = torch.autograd.grad(answer, states, retain_graph=True, allow_unused=True, materialize_grads=True)
    touched = torch.stack(
        [gradient.flatten(2).any(dim=2) if gradient.dim() > 2 else gradient != 0 for gradient in gradients]
    )
    return touched.any(dim=0).nonzero().tolist()


@pytest.mark.parametrize("bptt_segments", [1, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_depends_on_one_state_which_is_its_users_and_has_folded_the_fragment(
    kind: str, bptt_segments: int
) -> None:
    model = distinct_model(machine=kind, bptt_segments=bptt_segments)
    users = set()
    for stretch, heard in rehearse(rehearsal_objective(model), model, BATCH, change=cut_off):
        assert heard is not None
        for f, user in enumerate(heard.user(BATCH).tolist()):
            ((whose, boundary),) = states_behind(heard.decoded[f].sum(), stretch)
            assert whose == user
            assert int(heard.position[f, -1] - FIRST[user]) < (stretch.start + boundary) * model.config.segment_length
            users.add(user)
    assert users == {1, 3, 4}


@torch.no_grad()
@pytest.mark.parametrize("part", ["recollection", "familiarity"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_users_memory_gives_another_loss(kind: str, part: str) -> None:
    model = distinct_model(machine=kind)
    weights = {"recollection_weight": 0.0, "familiarity_weight": 0.0, f"{part}_weight": 1.0}
    objective = rehearsal_objective(model, rehearsal_config(**weights))
    ((_, own),) = rehearse(objective, model, BATCH)
    ((_, others),) = rehearse(objective, model, BATCH, change=of_the_next_user)
    assert own is not None
    assert others is not None
    assert torch.equal(own.position, others.position)
    assert not torch.equal(own.loss.loss, others.loss.loss)


@torch.no_grad()
def test_states_that_no_fragment_is_asked_of_do_not_matter() -> None:
    model = distinct_model()
    objective = rehearsal_objective(model)
    ((_, told),) = rehearse(objective, model, BATCH, change=named_states)
    assert told is not None
    asked = torch.zeros(5, 7, dtype=torch.bool)
    asked[names_of(told.slots)] = True
    assert 3 < asked.sum() < asked.numel() - 3

    def scribbled(stretch: StretchAnswers) -> StretchAnswers:
        slots = stretch.trace["slots"]
        kept = asked[:, : slots.shape[1], None, None]
        return replace(stretch, trace={"slots": torch.where(kept, slots, torch.full_like(slots, torch.nan))})

    ((_, heard),) = rehearse(objective, model, BATCH, change=scribbled)
    ((_, expected),) = rehearse(objective, model, BATCH)
    assert heard is not None
    assert expected is not None
    assert torch.equal(heard.loss.loss, expected.loss.loss)
