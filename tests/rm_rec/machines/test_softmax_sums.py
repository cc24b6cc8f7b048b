"""Sums by softmax weights equal the plain formula, and so do their gradients, however the events are cut."""

import pytest
import torch
from torch import Tensor

from rm_rec.machines import softmax_sums as module
from rm_rec.machines.softmax_sums import softmax_sums


def plain(events: Tensor, address: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    weight_USNK = (events @ address.T).softmax(dim=-1) * scale[:, :, None]
    return torch.einsum("usnk,usnd->ukd", weight_USNK, events), weight_USNK.sum(dim=(1, 2))


@pytest.mark.parametrize("at_once", [1, 7, 12, 24, 10**6])
@pytest.mark.parametrize("num_slots", [1, 5, 16, 31])
def test_they_equal_the_plain_formula(at_once: int, num_slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVENTS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(0)
    shapes = (5, 3, 4, 8), (num_slots, 8), (5, 3, num_slots)
    inputs = [torch.rand(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    inputs[2][1, 2] = 0.0  # a segment that does not count
    found, expected = ([part.clone().requires_grad_() for part in inputs] for _ in range(2))
    ours, theirs = softmax_sums(found[0], found[1], found[2]), plain(expected[0], expected[1], expected[2])
    torch.testing.assert_close(ours, theirs)
    for (sums, counts), leaves in ((ours, found), (theirs, expected)):
        (sums.square().sum() + counts.pow(3).sum()).backward()
        assert all(leaf.grad is not None for leaf in leaves)
    torch.testing.assert_close([leaf.grad for leaf in found], [leaf.grad for leaf in expected])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_nobody_and_nothing_sum_to_nothing(shape: tuple[int, int, int]) -> None:
    events = torch.zeros(*shape, 8, requires_grad=True)
    sums, counts = softmax_sums(events, torch.randn(5, 8), torch.ones(*shape[:2], 5))
    assert (sums.shape, counts.shape) == ((shape[0], 5, 8), (shape[0], 5))
    assert not sums.any()
    assert not counts.any()
    (sums.sum() + counts.sum()).backward()
    assert events.grad is not None
    assert events.grad.shape == events.shape
