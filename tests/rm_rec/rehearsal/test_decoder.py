"""The decoder sees what a fragment shows and its memory: nothing that is masked, no other fragment, no empty slot."""

import pytest
import torch
from torch import Tensor

from rm_rec.machines.base import Slots
from rm_rec.rehearsal.decoder import FragmentDecoder
from tests.support.fakes import scrambled

DIM, LENGTH = 8, 4


@pytest.fixture(params=[1, 2], ids=["one layer", "two layers"])
def decoder(request: pytest.FixtureRequest) -> FragmentDecoder:
    return scrambled(FragmentDecoder(DIM, 6, LENGTH, num_layers=request.param, num_heads=2)).requires_grad_(False)


def fragments() -> tuple[Tensor, Tensor, Slots]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, LENGTH, DIM, generator=generator)
    masked = torch.tensor([[True, False, False, True], [False, True, False, False], [False, False, False, True]])
    keys, values = torch.randn(2, 3, 5, 6, generator=generator)
    valid = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    return tokens, masked, Slots(keys, values, valid)


def test_a_masked_event_is_not_seen_and_a_shown_one_is(decoder: FragmentDecoder) -> None:
    tokens, masked, slots = fragments()
    tokens.requires_grad_()
    first, decoded = decoder(tokens, masked, slots)
    # Of each answer for itself: squares, since a norm's outputs sum to what does not depend on its input.
    for answer in (first, decoded):
        (gradient,) = torch.autograd.grad(answer.square().sum(), tokens, retain_graph=True)
        assert not gradient[masked].any()
        assert (gradient[~masked].abs().sum(dim=1) > 0).all()


def test_a_fragment_is_answered_as_if_alone(decoder: FragmentDecoder) -> None:
    tokens, masked, slots = fragments()
    together = decoder(tokens, masked, slots)
    for f in range(3):
        own = slice(f, f + 1)
        alone = decoder(tokens[own], masked[own], Slots(slots.keys[own], slots.values[own], slots.valid[own]))
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found, expected[own], atol=1e-5, rtol=0)


def test_an_empty_slot_is_not_seen_and_a_full_one_is(decoder: FragmentDecoder) -> None:
    tokens, masked, slots = fragments()
    keys, values = slots.keys.requires_grad_(), slots.values.requires_grad_()
    first, decoded = decoder(tokens, masked, slots)
    for answer in (first, decoded):
        for gradient in torch.autograd.grad(answer.square().sum(), (keys, values), retain_graph=True):
            assert torch.equal(gradient.abs().sum(dim=2) > 0, slots.valid)


def test_the_order_of_events_matters(decoder: FragmentDecoder) -> None:
    tokens, masked, slots = fragments()
    first, _ = decoder(tokens, masked, slots)
    turned, _ = decoder(tokens.flip(1), masked.flip(1), slots)
    assert ((first - turned).abs().amax(dim=1) > 1e-3).all()


def test_without_a_memory_a_fragment_is_answered_from_itself() -> None:
    tokens, masked, _ = fragments()
    decoder = scrambled(FragmentDecoder(DIM, None, LENGTH, num_layers=1, num_heads=2))
    first, decoded = decoder(tokens, masked, None)
    assert first.shape == (3, DIM)
    assert decoded.shape == (3, LENGTH, DIM)
    assert not any("reader" in name or "answer" in name for name, _ in decoder.named_parameters())
