"""Machines that keep the last events equal loops in NumPy, event by event."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from rm_rec.config.machines import RingBuffer, TransformerXL
from rm_rec.machines.ring_buffer import RingBufferMachine
from rm_rec.machines.transformer_xl import TransformerXLMachine
from tests.parity.small_histories import DIM, LENGTH, USERS, histories, layer_norm, numpy_of, real_events, softmax
from tests.support.fakes import scrambled


@pytest.mark.parametrize("num_slots", [1, 2, 4, 20])
def test_a_ring_buffer_is_the_last_events_with_their_ages(num_slots: int) -> None:
    machine = RingBufferMachine(RingBuffer(num_slots=num_slots), DIM)
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        seen: list[np.ndarray] = []
        for boundary in range(5):
            slots = machine.slots({name: values[user : user + 1, boundary] for name, values in trace.items()})
            kept = seen[-num_slots:]
            assert slots.valid[0].tolist() == [False] * (num_slots - len(kept)) + [True] * len(kept)
            assert float(trace["count"][user, boundary]) == len(seen)
            for age, event in enumerate(reversed(kept)):
                shown = [*event, math.log1p(age)]
                np.testing.assert_allclose(slots.keys[0, num_slots - 1 - age].numpy(), shown, atol=1e-6)
                np.testing.assert_allclose(slots.values[0, num_slots - 1 - age].numpy(), shown, atol=1e-6)
            if boundary < 4:
                seen += real_events(segments, valid, user, boundary)


def encoded(layer: Any, context: list[np.ndarray], events: list[np.ndarray | None], cache: int) -> list[Any]:
    """One layer over [cache; segment]; an event that is not there is None, and keeps its place."""
    heads, size = layer.num_heads, DIM_XL // layer.num_heads
    query, distance, out = (numpy_of(part.weight) for part in (layer.query, layer.distance, layer.attended))
    key, value = np.split(numpy_of(layer.key_value.weight), 2)
    u, w = numpy_of(layer.content_bias), numpy_of(layer.distance_bias)
    places = [(cache - len(context) + index, hidden) for index, hidden in enumerate(context)]
    places += [(cache + index, hidden) for index, hidden in enumerate(events) if hidden is not None]
    found: list[Any] = []
    for index, hidden in enumerate(events):
        if hidden is None:
            found.append(None)
            continue
        seen = [(cache + index - place, row) for place, row in places if place <= cache + index]
        q = query @ layer_norm(layer.norm_attention, hidden)
        read = np.zeros(DIM_XL)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            logits = []
            for behind, row in seen:
                k = (key @ layer_norm(layer.norm_attention, row))[own]
                angles = [behind / 10_000.0 ** (2 * pair / DIM_XL) for pair in range(DIM_XL // 2)]
                r = (distance @ np.array([*np.sin(angles), *np.cos(angles)]))[own]
                logits.append((q[own] + u[own]) @ k + (q[own] + w[own]) @ r)
            shares = softmax(np.array(logits) / math.sqrt(size))
            for share, (_, row) in zip(shares, seen, strict=True):
                read[own] += share * (value @ layer_norm(layer.norm_attention, row))[own]
        x = hidden + out @ read + numpy_of(layer.attended.bias)
        widened = numpy_of(layer.widen.weight) @ layer_norm(layer.norm_feedforward, x) + numpy_of(layer.widen.bias)
        gelu = np.array([0.5 * y * (1 + math.erf(y / math.sqrt(2))) for y in widened])
        found.append(x + numpy_of(layer.narrow.weight) @ gelu + numpy_of(layer.narrow.bias))
    return found


DIM_XL = 6  # sinusoids come in pairs, and heads divide it


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cache", [2, 4])
def test_transformer_xl_is_its_formula(cache: int, num_layers: int) -> None:
    config = TransformerXL(cache_length=cache, num_layers=num_layers, num_heads=2, feedforward_dim=7)
    machine = scrambled(TransformerXLMachine(config, DIM_XL), std=0.5)
    segments, valid = histories(torch.float32)
    segments = torch.cat([segments, segments[..., :1].flip(2)], dim=-1)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        levels: list[list[np.ndarray]] = [[] for _ in range(num_layers + 1)]
        for boundary in range(5):
            for level, rows in enumerate(levels):
                kept = rows[-cache:]
                for age, row in enumerate(reversed(kept)):
                    found = trace["hidden"][user, boundary, level, cache - 1 - age]
                    np.testing.assert_allclose(found.numpy(), row, atol=1e-5)
            slots = machine.slots({name: values[user : user + 1, boundary] for name, values in trace.items()})
            assert slots.valid[0].tolist() == [False] * (cache - len(kept)) + [True] * len(kept)
            last = numpy_of(trace["hidden"][user, boundary, -1])
            ages = np.log1p(np.arange(cache)[::-1])
            np.testing.assert_allclose(slots.keys[0].numpy(), np.column_stack([last, ages]), atol=1e-6)
            np.testing.assert_allclose(slots.values[0].numpy(), np.column_stack([last, ages]), atol=1e-6)
            if boundary == 4:
                continue
            events: list[Any] = [
                numpy_of(segments[user, boundary, event]) if valid[user, boundary, event] else None
                for event in range(LENGTH)
            ]
            contexts = [rows[-cache:] for rows in levels]
            for level, context in enumerate(contexts):
                levels[level] += [event for event in events if event is not None]
                if level < num_layers:
                    events = encoded(machine.layers[level], context, events, cache)


def test_no_gradient_passes_through_the_cache() -> None:
    machine = scrambled(TransformerXLMachine(TransformerXL(cache_length=4, num_heads=2), DIM_XL))
    segments = torch.randn(1, 3, 3, DIM_XL, generator=torch.Generator().manual_seed(0), requires_grad=True)
    trace = machine.scan(machine.initial(1), segments, torch.ones(1, 3, 3, dtype=torch.bool))
    trace["hidden"][:, -1].square().sum().backward()
    assert segments.grad is not None
    assert not segments.grad[:, :2].any()
    assert segments.grad[:, 2].abs().sum(dim=2).all()


def test_each_cached_event_of_the_last_segment_carries_its_own_gradient() -> None:
    """Also the first one, which later events of its segment attend to: of the sum of all rows nothing would be seen."""
    machine = scrambled(TransformerXLMachine(TransformerXL(cache_length=4, num_heads=2, num_layers=2), DIM_XL))
    segments = torch.randn(1, 3, 3, DIM_XL, generator=torch.Generator().manual_seed(0), requires_grad=True)
    trace = machine.scan(machine.initial(1), segments, torch.ones(1, 3, 3, dtype=torch.bool))
    for boundary in range(1, 4):
        for level, rows in enumerate(trace["hidden"][0, boundary]):
            for row, hidden in enumerate(rows):
                (gradient,) = torch.autograd.grad(hidden.square().sum(), segments, retain_graph=True)
                reached = {tuple(place) for place in gradient[0].abs().sum(dim=-1).nonzero().tolist()}
                # Of four rows the first is of the segment before: it carries none. In the tokens each event is alone.
                own = (boundary - 1, row - 1)
                before = {own} if level == 0 else {(boundary - 1, event) for event in range(row)}
                assert reached == (before if row else set()), (boundary, level, row)


def test_the_cache_begins_as_the_last_tokens() -> None:
    machine = TransformerXLMachine(TransformerXL(cache_length=4, num_heads=2), DIM_XL)
    segments = torch.randn(1, 3, 3, DIM_XL, generator=torch.Generator().manual_seed(0))
    trace = machine.scan(machine.initial(1), segments, torch.ones(1, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(trace["hidden"][0, -1, 1], segments.flatten(1, 2)[0, -4:])
