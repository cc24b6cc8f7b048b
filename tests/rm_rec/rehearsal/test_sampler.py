"""Which fragments are drawn: evenly, by weight, never one too late; and what teacher and student learn to prefer."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from rm_rec.config import Sampler
from rm_rec.rehearsal.fragments import FragmentGrid
from rm_rec.rehearsal.sampler import Clicks, HistorySampler, draw_uniform
from tests.support.fakes import scrambled
from tests.support.rehearsed import (
    distinct_batch,
    distinct_model,
    random,
    rehearsal_config,
    rehearsal_objective,
    rehearse,
)

DIM, LENGTH = 8, 3
LEARNT = ("teacher", "student")


def sampler(kind: str, **settings: Any) -> HistorySampler:
    torch.manual_seed(0)
    config: Sampler = TypeAdapter(Sampler).validate_python({"kind": kind} | settings)
    return HistorySampler(config, DIM, LENGTH)


def assert_drawn_with(shares: list[float], drawn: Tensor) -> None:
    """Chi-square: with k possible values, its mean is k - 1 and its standard deviation the root of twice that."""
    counts = torch.bincount(drawn, minlength=len(shares))
    assert len(counts) == len(shares)
    expected = torch.tensor(shares) * len(drawn)
    assert not counts[expected == 0].any()
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic <= freedom + 5 * (2 * freedom) ** 0.5, counts


@pytest.mark.parametrize("num_available", [1, 2, 7, 100])
def test_an_even_draw_is_even(num_available: int) -> None:
    rows = torch.full((20_000,), num_available)
    even = [1 / num_available] * num_available
    assert_drawn_with(even, draw_uniform(rows, random()))
    assert_drawn_with(even, sampler("uniform").draw(None, rows, random()))


def test_an_even_draw_is_each_rows_own() -> None:
    rows = torch.tensor([1, 3, 10**9]).repeat(1000)
    found = draw_uniform(rows, random()).view(-1, 3)
    assert not found[:, 0].any()
    assert set(found[:, 1].tolist()) == {0, 1, 2}
    assert 0.4e9 < found[:, 2].double().mean() < 0.6e9


WEIGHTS = [1.0, 3.0, 0.0, 4.0, 90.0]  # of which the first four can be drawn
DRAWS: list[tuple[float, list[float], list[float]]] = [  # the even share, weights, shares expected
    (0.0, WEIGHTS, [0.125, 0.375, 0.0, 0.5]),
    (0.5, WEIGHTS, [0.1875, 0.3125, 0.125, 0.375]),
    (1.0, WEIGHTS, [0.25] * 4),
    (0.0, [1e-6 * weight for weight in WEIGHTS], [0.125, 0.375, 0.0, 0.5]),
    (0.0, [0.0, 0.0, 0.0, 0.0, 1.0], [0.25] * 4),
    (0.0, [0.0] * 5, [0.25] * 4),
]


@pytest.mark.parametrize("kind", LEARNT)
@pytest.mark.parametrize(("uniform_share", "weights", "expected"), DRAWS, ids=str)
def test_a_draw_by_weight_keeps_to_weights_and_to_what_is_available(
    kind: str, uniform_share: float, weights: list[float], expected: list[float]
) -> None:
    rows = 20_000
    drawn = sampler(kind, uniform_share=uniform_share).draw(
        torch.tensor(weights).expand(rows, -1), torch.full((rows,), 4), random()
    )
    assert_drawn_with(expected, drawn)


def test_rows_are_drawn_by_their_own_weights() -> None:
    weights = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    drawn = sampler("teacher", uniform_share=0.0).draw(
        weights.repeat(3000, 1), torch.tensor([2, 3, 2]).repeat(3000), random()
    )
    first, second, third = drawn.view(-1, 3).unbind(1)
    assert (first == 1).all()
    assert (second == 2).all()
    assert_drawn_with([0.5, 0.5], third)


PLACES = 6


def planted(num_users: int, seed: int) -> tuple[FragmentGrid, Clicks, Tensor]:
    """Each user's fragments bear a topic each, and a sign; the sign of the targets' topic is whether they are clicked.

    Returns also which fragment that is.
    """
    generator = torch.Generator().manual_seed(seed)
    topic = torch.rand(num_users, PLACES, generator=generator).argsort(dim=1)
    sign = torch.randint(2, (num_users, PLACES), generator=generator)
    summary = torch.eye(DIM)[topic] + (2 * sign[..., None] - 1) * torch.eye(DIM)[PLACES]
    _, where = (topic == 0).nonzero(as_tuple=True)
    clicks = Clicks(
        user=torch.arange(num_users),
        target=torch.eye(DIM)[0] + 0.3 * torch.randn(num_users, DIM, generator=generator),
        num_earlier=torch.full((num_users,), PLACES * LENGTH),
        label=sign.gather(1, where[:, None]).squeeze(1).float(),
    )
    return FragmentGrid(torch.full((num_users,), PLACES), summary), clicks, where


@pytest.fixture(scope="module")
def taught() -> HistorySampler:
    module = sampler("student")
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(100):
        grid, clicks, _ = planted(128, seed=step)
        optimizer.zero_grad()
        module(grid, clicks, random())[1].backward()
        optimizer.step()
    return module


@torch.no_grad()
def test_the_teacher_attends_to_the_fragment_that_decides(taught: HistorySampler) -> None:
    assert taught.teacher is not None
    grid, clicks, where = planted(500, seed=10**6)
    num_older = torch.full((500,), PLACES)

    def found(teacher: torch.nn.Module) -> float:
        _, share = teacher(clicks.target, grid.summary, num_older)
        return float(share.gather(1, where[:, None]).mean())

    untaught = sampler("student").teacher
    assert untaught is not None
    assert found(untaught) < 0.4
    assert found(taught.teacher) > 0.9
    logits, _ = taught.teacher(clicks.target, grid.summary, num_older)
    assert ((logits > 0) == (clicks.label > 0)).float().mean() > 0.95


@torch.no_grad()
def test_the_student_ends_near_the_teachers_shares(taught: HistorySampler) -> None:
    assert taught.teacher is not None
    assert taught.student is not None
    grid, clicks, _ = planted(500, seed=10**6)
    _, share = taught.teacher(clicks.target, grid.summary, torch.full((500,), PLACES))
    wanted = share / share.sum(dim=1, keepdim=True)

    def distance(student: torch.nn.Module) -> float:
        return float((student(grid).exp() - wanted).abs().sum(dim=1).mean() / 2)

    untaught = sampler("student").student
    assert untaught is not None
    assert distance(untaught) > 0.5
    assert distance(taught.student) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("kind", LEARNT)
def test_a_taught_sampler_draws_what_it_was_taught(kind: str, taught: HistorySampler) -> None:
    module = sampler(kind, uniform_share=0.2)
    module.load_state_dict(taught.state_dict(), strict=kind == "student")
    grid, clicks, where = planted(500, seed=10**6)
    weights, _ = module(grid, clicks, random())
    drawn = module.draw(weights, grid.count, random())
    # 0.2 are drawn evenly.
    assert (drawn == where).float().mean() > 0.7


def small_grid() -> FragmentGrid:
    generator = torch.Generator().manual_seed(3)
    return FragmentGrid(torch.tensor([5, 5, 2, 0]), torch.randn(4, 5, DIM, generator=generator))


def asked(users: list[int], num_earlier: list[int]) -> Clicks:
    generator = torch.Generator().manual_seed(4)
    return Clicks(
        user=torch.tensor(users, dtype=torch.int64),
        target=torch.randn(len(users), DIM, generator=generator),
        num_earlier=torch.tensor(num_earlier, dtype=torch.int64),
        label=torch.randint(2, (len(users),), generator=generator).float(),
    )


def test_a_fragment_that_is_not_older_than_an_impression_gets_no_share_of_it() -> None:
    module = scrambled(sampler("teacher"))
    for num_earlier in range(16):
        weights, _ = module(small_grid(), asked([1], [num_earlier]), random())
        older = num_earlier // LENGTH
        assert (weights[1, :older] > 0).all()
        assert not weights[1, older:].any()
        assert not weights[[0, 2, 3]].any()


def test_what_is_not_older_changes_no_attention() -> None:
    module = scrambled(sampler("teacher"))
    grid, clicks = small_grid(), asked([1, 1, 2], [9, 11, 2])
    changed = grid.summary.clone()
    changed[1, 3:] = 99.0
    changed[2] = 99.0
    for one, other in zip(
        module(grid, clicks, random()), module(FragmentGrid(grid.count, changed), clicks, random()), strict=True
    ):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("max_queries", [1, 2, 50])
def test_at_most_so_many_queries_are_learnt_from_and_each_may_be(max_queries: int) -> None:
    module = scrambled(sampler("teacher", max_queries=max_queries))
    users = set()
    for seed in range(40):
        # The last has no older fragment: it is not one of them.
        weights, _ = module(small_grid(), asked([0, 1, 2, 3], [15, 9, 7, 2]), random(seed))
        chosen = (weights.sum(dim=1) > 0).nonzero().flatten().tolist()
        assert len(chosen) == min(max_queries, 3)
        users |= set(chosen)
    assert users == {0, 1, 2}


@pytest.mark.parametrize("kind", LEARNT)
@pytest.mark.parametrize(("users", "num_earlier"), [([], []), ([3, 0], [2, 1])], ids=["no impressions", "none older"])
def test_with_nothing_to_learn_from_the_loss_is_zero_and_its_gradients_finite(
    kind: str, users: list[int], num_earlier: list[int]
) -> None:
    module = scrambled(sampler(kind))
    weights, loss = module(small_grid(), asked(users, num_earlier), random())
    assert loss.item() == 0.0
    assert torch.isfinite(weights).all()
    if loss.requires_grad:
        loss.backward()
    assert all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in module.parameters())


@pytest.mark.parametrize("kind", LEARNT)
def test_a_users_empty_places_weigh_nothing_and_all_gradients_are_finite(kind: str) -> None:
    module = scrambled(sampler(kind), std=2.0)
    weights, loss = module(small_grid(), asked([0, 1, 2, 0], [15, 9, 7, 4]), random())
    assert not weights[3].any()
    assert not weights[2, 2:].any()
    loss.backward()
    for name, weight in module.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.any() or name.endswith("score.2.bias"), name  # a softmax does not see its scores' bias


@pytest.mark.parametrize("kind", LEARNT)
@pytest.mark.parametrize("machine", ["none", "slot_gru"])
def test_what_teaches_the_sampler_does_not_change_the_model(kind: str, machine: str) -> None:
    model = distinct_model(machine=machine)
    config = rehearsal_config(sampler=kind, recollection_weight=1e-30, familiarity_weight=0.0)
    objective = rehearsal_objective(model, config)
    batch = distinct_batch([26, 9], [[2, 21, 26], [9, 5]])
    for _, heard in rehearse(objective, model, batch):
        assert heard is not None
        assert heard.loss.loss.item() > 0
        heard.loss.loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is None or weight.grad.abs().max() < 1e-20, name
    assert all(weight.grad is not None for weight in objective.sampler.parameters())


@pytest.mark.parametrize("kind", LEARNT)
def test_fragments_that_weigh_more_are_rehearsed_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = distinct_model()
    config = rehearsal_config(fragments_per_user=500, sampler={"kind": kind, "uniform_share": 0.4})
    objective = rehearsal_objective(model, config)
    batch = distinct_batch([2, 12, 12], [[2], [12], [12]])

    def weighed(grid: FragmentGrid, *others: object) -> tuple[Tensor, Tensor]:
        weights = torch.zeros(grid.summary.shape[:2])
        weights[1, 0] = weights[2, 1] = 7.0
        return weights, torch.zeros(())

    monkeypatch.setattr(objective.sampler, "forward", weighed)
    ((_, heard),) = rehearse(objective, model, batch)
    assert heard is not None
    place = (heard.position[:, 0] - 2) % 12 // LENGTH
    found = place.view(2, 500)  # states of 1 to 3 segments have 1, 2 and 4 fragments
    even = [(1 + 1 / 2 + 1 / 4) / 3, (1 / 2 + 1 / 4) / 3, 1 / 12, 1 / 12]
    assert_drawn_with([0.6 + 0.4 * even[0], *(0.4 * share for share in even[1:])], found[0])
    # Of one segment only the first fragment is older, whatever weighs.
    late = [0.6 * 1 / 3 + 0.4 * even[0], 0.6 * 2 / 3 + 0.4 * even[1], 0.4 * even[2], 0.4 * even[3]]
    assert_drawn_with(late, found[1])
