"""What true events are told from: candidates and the events mixed into fragments are real ones, and the right ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rm_rec.rehearsal.familiarity import others_events
from tests.support.fakes import user_batch
from tests.support.rehearsed import (
    Heard,
    distinct_batch,
    distinct_model,
    place_of,
    random,
    rehearsal_config,
    rehearsal_objective,
    rehearse,
)

# User 0 has no impressions: its events, the first of which padding points at, are no fragment's.
BATCH = distinct_batch([5, 21, 0, 16, 9, 2], [[], [21, 1, 9, 14], [0], [16, 3], [7], [2]])
MODEL = distinct_model()


def heard_of(seed: int = 0, **settings: Any) -> Heard:
    objective = rehearsal_objective(MODEL, rehearsal_config(**settings))
    ((_, heard),) = rehearse(objective, MODEL, BATCH, seed)
    assert heard is not None
    return heard


def candidates_of(heard: Heard) -> tuple[Tensor, Tensor]:
    """The true events and the candidates, by their places in the batch."""
    assert heard.recollection is not None
    _, true, _, candidate, _ = heard.recollection
    return place_of(true, MODEL), place_of(candidate, MODEL)


def test_what_is_asked_for_is_what_was_masked() -> None:
    heard = heard_of(mask_ratio=0.7)
    assert heard.recollection is not None
    decoded = heard.recollection[0]
    for f, true in enumerate(candidates_of(heard)[0].tolist()):
        places = [heard.position[f].tolist().index(event) for event in true]
        assert sorted(places) == heard.masked[f].nonzero().flatten().tolist()
        assert torch.equal(decoded[f], heard.decoded[f, places])


def test_keys_are_those_of_their_events() -> None:
    for candidates in ("fragment", "batch", "sampled"):
        heard = heard_of(candidates=candidates)
        assert heard.recollection is not None
        _, _, true_key, _, candidate_key = heard.recollection
        true, candidate = candidates_of(heard)
        same = true[..., None] == candidate[:, None]
        assert torch.equal(true_key[..., None] == candidate_key[:, None], same)
        assert same.any()


def test_a_fragments_candidates_are_its_own_masked_events() -> None:
    true, candidate = candidates_of(heard_of(candidates="fragment", mask_ratio=0.7))
    assert torch.equal(candidate, true)


@pytest.mark.parametrize("num_candidates", [1, 10, 1000])
def test_a_batchs_candidates_are_masked_events_each_once(num_candidates: int) -> None:
    true, candidate = candidates_of(heard_of(candidates="batch", num_candidates=num_candidates))
    masked, found = sorted(true.flatten().tolist()), candidate.flatten().tolist()
    assert candidate.shape == (1, min(num_candidates, len(masked)))
    assert all(masked.count(event) >= found.count(event) for event in found)
    assert num_candidates < len(masked) or sorted(found) == masked


def test_fewer_candidates_than_the_batch_has_are_drawn_from_all_its_fragments() -> None:
    _, candidate = candidates_of(heard_of(candidates="batch", num_candidates=600, fragments_per_user=300))
    owner = torch.arange(BATCH.num_users).repeat_interleave(BATCH.event_lengths)
    counts = torch.bincount(owner[candidate.flatten()], minlength=BATCH.num_users)
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    # 600 of 3 users' 600 masked events each: one standard deviation is 9.4.
    assert (counts[[1, 3, 4]] - 200).abs().max() < 5 * 9.4


def test_sampled_candidates_are_events_of_the_batch_each_as_likely() -> None:
    num_candidates = 53 * 200
    _, candidate = candidates_of(heard_of(candidates="sampled", num_candidates=num_candidates))
    assert candidate.shape == (1, num_candidates)
    counts = torch.bincount(candidate.flatten(), minlength=53)
    assert len(counts) == 53
    # 53 events drawn 200 times each: one standard deviation is 14.
    assert (counts - 200).abs().max() < 5 * 14


@pytest.mark.parametrize(
    ("fragment_length", "mask_ratio", "replace_ratio"), [(3, 0.5, 0.5), (2, 0.9, 0.01), (4, 0.01, 1.0)]
)
def test_a_mixed_fragment_has_events_of_others_where_it_is_shown_and_else_is_the_same(
    fragment_length: int, mask_ratio: float, replace_ratio: float
) -> None:
    heard = heard_of(fragment_length=fragment_length, mask_ratio=mask_ratio, replace_ratio=replace_ratio)
    assert heard.mixed is not None
    strange = heard.mixed != heard.position
    num_masked = min(max(1, round(fragment_length * mask_ratio)), fragment_length - 1)
    num_strange = max(1, round((fragment_length - num_masked) * replace_ratio))
    assert (heard.masked.sum(dim=1) == num_masked).all()
    assert (strange.sum(dim=1) == num_strange).all()
    assert not (strange & heard.masked).any()
    owner = torch.arange(BATCH.num_users).repeat_interleave(BATCH.event_lengths)
    assert (owner[heard.mixed[strange]] != owner[heard.position[strange]]).all()


def test_each_place_of_a_fragment_is_masked_and_replaced_as_often() -> None:
    heard = heard_of(fragment_length=4, fragments_per_user=1000, replace_ratio=0.5)
    assert heard.mixed is not None
    num = len(heard.position)
    for chosen, share in ((heard.masked, 1 / 2), (heard.mixed != heard.position, 1 / 4)):
        deviation = (num * share * (1 - share)) ** 0.5
        assert ((chosen.sum(dim=0) - num * share).abs() < 5 * deviation).all()


@pytest.mark.parametrize("lengths", [[4, 0, 1, 7, 0], [0, 3, 2], [1, 1], [2, 9]], ids=str)
def test_others_events_are_every_others_each_as_likely_and_never_ones_own(lengths: list[int]) -> None:
    batch = user_batch(lengths, [[] for _ in lengths])
    user = torch.tensor([u for u, length in enumerate(lengths) if length])
    found = others_events(batch.event_lengths, user, 2000, random())
    assert found is not None
    owner = torch.arange(len(lengths)).repeat_interleave(batch.event_lengths)
    for row, own in zip(found, user.tolist(), strict=True):
        counts = torch.bincount(row, minlength=len(owner))
        assert not counts[owner == own].any()
        expected = 2000 / int((owner != own).sum())
        assert ((counts[owner != own] - expected).abs() <= 5 * expected**0.5).all()


@pytest.mark.parametrize("lengths", [[6], [0, 6, 0]], ids=str)
def test_where_nobody_else_has_events_there_are_no_others(lengths: list[int]) -> None:
    batch = user_batch(lengths, [[] for _ in lengths])
    assert others_events(batch.event_lengths, torch.tensor([lengths.index(6)] * 3), 2, random()) is None
    assert others_events(batch.event_lengths, torch.zeros(0, dtype=torch.int64), 2, random()) is None


def test_a_user_alone_is_asked_to_recollect_and_not_what_is_familiar() -> None:
    batch = distinct_batch([0, 12], [[0], [12]])
    ((_, heard),) = rehearse(rehearsal_objective(MODEL), MODEL, batch)
    assert heard is not None
    assert heard.mixed is None
    assert heard.loss.figures.keys() == {"recollection_loss", "recollection_accuracy"}
