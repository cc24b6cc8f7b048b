"""Rehearsal's losses and its sampler's attention equal loops in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from rm_rec.config import Sampler
from rm_rec.rehearsal.familiarity import Familiarity
from rm_rec.rehearsal.fragments import FragmentGrid
from rm_rec.rehearsal.recollection import Recollection, event_keys
from rm_rec.rehearsal.sampler import Clicks, FragmentStudent, FragmentTeacher, HistorySampler
from tests.parity import rehearsal_formulas as formulas
from tests.parity.rehearsal_formulas import numpy_of
from tests.support.fakes import scrambled

DIM, FRAGMENTS, MASKED, CANDIDATES, LENGTH = 5, 4, 3, 7, 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def events_like(*shape: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two features of few values, so that many events are the same; and a vector for each event."""
    events = torch.randint(3, (*shape, 2), generator=torch.Generator().manual_seed(seed))
    return events, drawn(3, 3, DIM)[events[..., 0], events[..., 1]]


def keys_of(events: Tensor) -> Tensor:
    a, b = events.unbind(-1)
    return event_keys({"a": a.flatten(), "b": b.flatten()}).view(a.shape)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, FRAGMENTS], ids=["shared", "each fragment's own"])
def test_recollection_is_its_formula(rows: int) -> None:
    part = scrambled(Recollection(DIM), std=0.7)
    decoded = drawn(FRAGMENTS, MASKED, DIM, seed=1)
    events, true = events_like(FRAGMENTS, MASKED, seed=2)
    candidates, vectors = events_like(rows, CANDIDATES, seed=3)
    loss, picked = part(decoded, true, keys_of(events), vectors, keys_of(candidates))
    expected = []
    for f in range(FRAGMENTS):
        row = f if rows > 1 else 0
        wrong = [(numpy_of(vectors[row, c]), tuple(candidates[row, c].tolist())) for c in range(CANDIDATES)]
        for m in range(MASKED):
            answer = numpy_of(part.answer.weight) @ numpy_of(decoded[f, m]) + numpy_of(part.answer.bias)
            value, is_picked = formulas.recollection(answer, numpy_of(true[f, m]), tuple(events[f, m].tolist()), wrong)
            expected.append(value)
            assert bool(picked[f, m]) == is_picked
    assert 0 < picked.sum() < picked.numel()
    assert float(loss) == pytest.approx(np.mean(expected), abs=1e-5)


def test_like_events_among_the_candidates_change_nothing() -> None:
    part = scrambled(Recollection(DIM))
    decoded, true = drawn(1, 1, DIM, seed=1), drawn(1, 1, DIM, seed=2)
    others, key = drawn(1, 3, DIM, seed=3), torch.tensor([[7]])
    expected = part(decoded, true, key, others, torch.tensor([[1, 2, 3]]))
    with_it = torch.cat([true, others, 100 * true], dim=1)
    found = part(decoded, true, key, with_it, torch.tensor([[7, 1, 2, 3, 7]]))
    torch.testing.assert_close(found, expected)


def test_where_all_candidates_are_like_it_an_event_costs_nothing() -> None:
    part = Recollection(DIM)
    decoded = drawn(1, 2, DIM, seed=1).requires_grad_()
    true = drawn(1, 2, DIM, seed=2)
    loss, picked = part(decoded, true, torch.tensor([[7, 7]]), true, torch.tensor([[7, 7]]))
    assert loss.item() == 0.0
    assert picked.all()
    loss.backward()
    assert decoded.grad is not None
    assert torch.isfinite(decoded.grad).all()


def test_a_memory_that_scores_all_alike_picks_nothing_out() -> None:
    part = Recollection(DIM)
    true, others = drawn(2, 3, DIM, seed=1), drawn(1, 6, DIM, seed=2)
    key = torch.arange(6).view(2, 3)
    loss, picked = part(torch.zeros(2, 3, DIM), true, key, others, key.view(1, 6) + 10)
    assert not picked.any()
    assert loss.item() == pytest.approx(math.log(7))


@given(st.lists(st.tuples(*[st.integers(0, 4) | st.integers(0, 2**40)] * 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_keys_are_equal_where_all_features_are(rows: list[tuple[int, ...]]) -> None:
    columns = zip(("item", "category", "action"), torch.tensor(rows).unbind(1), strict=True)
    keys = event_keys(dict(columns)).tolist()
    for key, row in zip(keys, rows, strict=True):
        assert [key == other for other in keys] == [row == other for other in rows]


def test_keys_of_all_small_events_differ() -> None:
    grid = torch.cartesian_prod(torch.arange(60), torch.arange(60), torch.arange(12))
    assert len(event_keys(dict(zip("abc", grid.unbind(1), strict=True))).unique()) == len(grid)


@torch.no_grad()
def test_familiarity_is_its_formula() -> None:
    part = scrambled(Familiarity(DIM), std=0.7)
    true, mixed = drawn(6, DIM, seed=1), drawn(6, DIM, seed=2)
    weight, bias = numpy_of(part.score.weight)[0], float(part.score.bias)
    expected = formulas.familiarity(*[[float(weight @ numpy_of(x)) + bias for x in side] for side in (true, mixed)])
    loss, told = part(true, mixed)
    assert (float(loss), float(told)) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected[1] < 1


@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
def test_however_sure_familiarity_is_its_loss_and_gradients_are_finite(size: float) -> None:
    part = scrambled(Familiarity(DIM))
    for sign in (1.0, -1.0):
        true = (sign * size * torch.ones(2, DIM)).requires_grad_()
        loss, _ = part(true, -true)
        assert torch.isfinite(loss)
        loss.backward()
        assert true.grad is not None
        assert torch.isfinite(true.grad).all()
        assert part.score.weight.grad is not None
        assert torch.isfinite(part.score.weight.grad).all()


COUNT = (4, 0, 1, 6)  # fragments of each user
USER, NUM_OLDER = (0, 0, 3, 3, 2, 1, 3), (4, 2, 6, 1, 1, 0, 5)  # of each query


def grid() -> FragmentGrid:
    summary = drawn(len(COUNT), max(COUNT), DIM, seed=4)
    there = torch.arange(max(COUNT)) < torch.tensor(COUNT)[:, None]
    return FragmentGrid(torch.tensor(COUNT), summary.masked_fill(~there[..., None], 0.0))


def clicks() -> Clicks:
    return Clicks(
        user=torch.tensor(USER),
        target=drawn(len(USER), DIM, seed=5),
        num_earlier=torch.tensor(NUM_OLDER) * LENGTH + torch.tensor([0, 2, 1, 0, 2, 1, 0]),
        label=torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]),
    )


def sampler(kind: str, **settings: Any) -> HistorySampler:
    config: Sampler = TypeAdapter(Sampler).validate_python({"kind": kind} | settings)
    return scrambled(HistorySampler(config, DIM, LENGTH), std=0.5)


def teacher_loop(teacher: FragmentTeacher, query: int) -> tuple[float, list[float]]:
    """The logit of a click, and the attention: softmax of (W t) . (V s) + bias of age, beside a null of its own."""
    target, older = numpy_of(clicks().target[query]), NUM_OLDER[query]
    summaries = [numpy_of(grid().summary[USER[query], place]) for place in range(older)]
    scores = [
        float((numpy_of(teacher.query.weight) @ target) @ (numpy_of(teacher.key.weight) @ summary))
        + float(teacher.age_bias[formulas.age_bin(older - place)])
        for place, summary in enumerate(summaries)
    ]
    *own, null = formulas.shares([*scores, float(teacher.null)])
    answer = sum((share * summary for share, summary in zip(own, summaries, strict=True)), np.zeros(DIM))
    features = np.concatenate([target, answer, answer * target, [null]])
    return formulas.perceptron(teacher.head, features), own


def student_loop(student: FragmentStudent, user: int) -> list[float]:
    """Shares of a user's fragments: softmax of a perceptron's score and the bias of age."""
    summaries = [numpy_of(grid().summary[user, place]) for place in range(COUNT[user])]
    if not summaries:
        return []
    mean = np.mean(summaries, axis=0)
    scores = [
        formulas.perceptron(student.score, np.concatenate([summary, mean, summary * mean]))
        + float(student.age_bias[formulas.age_bin(COUNT[user] - place)])
        for place, summary in enumerate(summaries)
    ]
    return formulas.shares(scores)


def padded(own: list[float]) -> list[float]:
    return own + [0.0] * (max(COUNT) - len(own))


def taught_loop(teacher: FragmentTeacher) -> tuple[float, np.ndarray]:
    """The mean loss of the queries that have older fragments, and what each user's fragments got from them all."""
    losses, total = [], np.zeros((len(COUNT), max(COUNT)))
    for query, user in enumerate(USER):
        if NUM_OLDER[query]:
            logit, own = teacher_loop(teacher, query)
            sign = 2.0 * float(clicks().label[query]) - 1.0
            losses.append(formulas.log_sum_exp([0.0, -sign * logit]))
            total[user] += padded(own)
    return float(np.mean(losses)), total


@torch.no_grad()
def test_the_teacher_is_its_formula() -> None:
    teacher = scrambled(FragmentTeacher(DIM), std=0.5)
    logits, share = teacher(clicks().target, grid().summary[list(USER)], torch.tensor(NUM_OLDER))
    for query in range(len(USER)):
        logit, own = teacher_loop(teacher, query)
        assert float(logits[query]) == pytest.approx(logit, abs=1e-5)
        np.testing.assert_allclose(share[query].numpy(), padded(own), atol=1e-6)


@torch.no_grad()
def test_the_student_is_its_formula() -> None:
    student = scrambled(FragmentStudent(DIM), std=0.5)
    found = student(grid()).exp()
    for user in range(len(COUNT)):
        np.testing.assert_allclose(found[user].numpy(), padded(student_loop(student, user)), atol=1e-6)


@torch.no_grad()
def test_a_teachers_weights_are_its_attention_of_all_a_users_queries() -> None:
    teacher = sampler("teacher")
    assert teacher.teacher is not None
    weights, loss = teacher(grid(), clicks(), torch.Generator().manual_seed(0))
    expected, total = taught_loop(teacher.teacher)
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(weights.numpy(), total, atol=1e-5)


@torch.no_grad()
def test_a_students_loss_adds_its_cross_entropy_with_the_teachers_shares() -> None:
    student = sampler("student")
    assert student.teacher is not None
    assert student.student is not None
    weights, loss = student(grid(), clicks(), torch.Generator().manual_seed(0))
    expected, total = taught_loop(student.teacher)
    entropies = []
    for user in range(len(COUNT)):
        own = student_loop(student.student, user)
        np.testing.assert_allclose(weights[user].numpy(), padded(own), atol=1e-6)
        if total[user].sum():
            wanted = total[user] / total[user].sum()
            entropies.append(-sum(want * math.log(share) for want, share in zip(wanted, own, strict=False)))
    assert len(entropies) == 3
    assert float(loss) == pytest.approx(expected + np.mean(entropies), abs=1e-5)
