"""The count sketch equals a loop in NumPy, event by event, and counts what repeats."""

import math

import numpy as np
import torch

from rm_rec.config.machines import CountSketch
from rm_rec.config.readers import AttentionReader
from rm_rec.machines.count_sketch import CountSketchMachine
from rm_rec.readers.attention import SlotAttention
from tests.parity.small_histories import DIM, USERS, histories, numpy_of, real_events, softmax


@torch.no_grad()
def test_the_count_sketch_is_its_formula() -> None:
    config = CountSketch(num_buckets=7, half_life=3.0, sharpness=5.0)
    machine = CountSketchMachine(config, DIM)
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)["count"]
    direction = numpy_of(machine.direction)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1.0, atol=1e-6)
    for user in range(USERS):
        count = np.zeros(7)
        for boundary in range(5):
            np.testing.assert_allclose(trace[user, boundary].numpy(), count, atol=1e-5)
            slots = machine.slots({"count": trace[user : user + 1, boundary]})
            assert slots.valid[0].tolist() == [bool(count.any())] * 7
            np.testing.assert_allclose(slots.keys[0].numpy(), 5.0 * direction, atol=1e-6)
            full = math.sqrt(DIM) * np.log1p(count)[:, None] * direction
            np.testing.assert_allclose(slots.values[0].numpy(), full, atol=1e-5)
            for event in real_events(segments, valid, user, boundary) if boundary < 4 else []:
                count = count * 0.5 ** (1 / 3) + softmax(5.0 * direction @ event / np.linalg.norm(event))


def test_the_directions_are_the_seeds() -> None:
    first, again, other = (CountSketchMachine(CountSketch(seed=seed), DIM).direction for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not list(CountSketchMachine(CountSketch(), DIM).parameters()), "nothing is trained"


@torch.no_grad()
def test_a_target_finds_how_often_it_was_met() -> None:
    dim, times = 32, [0, 1, 4, 16, 64]
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(len(times), dim, generator=generator)
    history = torch.cat([item.expand(count, -1) for item, count in zip(items, times, strict=True)])
    machine = CountSketchMachine(CountSketch(half_life=1e6, sharpness=100.0), dim)
    valid = torch.ones(1, len(history), dtype=torch.bool)
    state = machine.write(machine.initial(1), history[None], valid)
    reader = SlotAttention(AttentionReader(), dim, dim)
    answers = reader(items[None], machine.slots(state))[0, :, :dim]
    strength = (answers * items).sum(dim=1)
    assert strength.argsort().tolist() == [0, 1, 2, 3, 4]
    assert strength[0] < 0.1 * strength[4]


@torch.no_grad()
def test_half_a_count_is_left_after_the_half_life() -> None:
    machine = CountSketchMachine(CountSketch(num_buckets=2, half_life=6.0, sharpness=1000.0), DIM)
    machine.direction.copy_(torch.eye(DIM)[:2])
    segments = torch.eye(DIM)[[0, 1, 1, 1, 1, 1, 1]].view(1, 7, 1, DIM)
    count = machine.scan(machine.initial(1), segments, torch.ones(1, 7, 1, dtype=torch.bool))["count"]
    np.testing.assert_allclose(count[0, [1, 7], 0].numpy(), [1.0, 0.5], atol=1e-6)
