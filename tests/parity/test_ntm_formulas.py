"""The Neural Turing Machine equals a loop in NumPy, written from its paper's equations 2 to 9."""

import numpy as np
import pytest
import torch

from rm_rec.config.machines import NtmMemory
from rm_rec.machines.ntm import NtmMachine
from tests.parity.small_histories import (
    DIM,
    SEGMENTS,
    USERS,
    agree,
    by_content,
    cut,
    erased_and_added,
    events_by_segment,
    histories,
    sigmoid,
    softmax,
    softplus,
    start_of,
    weights_of,
)
from tests.support.fakes import scrambled

SLOTS, ROW, CONTROLLER = 6, 4, 7


def machine_of(reads: bool, shift_range: int) -> NtmMachine:
    config = NtmMemory(
        num_slots=SLOTS, slot_dim=ROW, controller_dim=CONTROLLER, controller_reads=reads, shift_range=shift_range
    )
    return scrambled(NtmMachine(config, DIM), std=0.6).double()


def next_focus(memory: np.ndarray, focus: np.ndarray, head: list[np.ndarray]) -> np.ndarray:
    """Equations 5 to 9 for one head."""
    key, strength, content, shift, power = head
    gate = sigmoid(content[0])
    focused = gate * by_content(key, softplus(strength[0]), memory) + (1.0 - gate) * focus
    shares, reach = softmax(shift), len(shift) // 2
    moved = np.zeros(SLOTS)
    for i in range(SLOTS):
        for n, share in enumerate(shares):
            moved[(i + n - reach) % SLOTS] += focused[i] * share
    raised = moved ** (1.0 + softplus(power[0]))
    return raised / raised.sum()


def event_folded(machine: NtmMachine, state: dict[str, np.ndarray], event: np.ndarray) -> dict[str, np.ndarray]:
    weights, heads = weights_of(machine), machine.num_heads
    memory, focus = state["memory"], state["focus"]
    seen = weights["from_event.weight"] @ event + weights["from_event.bias"]
    if heads == 2:
        seen = seen + weights["from_read.weight"] @ (focus[1] @ memory)
    steered = weights["steer.weight"] @ np.tanh(seen) + weights["steer.bias"]
    *of_heads, erase, add = cut(steered, [heads * ROW, heads, heads, heads * machine.num_shifts, heads, ROW, ROW])
    by_head = [part.reshape(heads, -1) for part in of_heads]
    after = [next_focus(memory, focus[head], [part[head] for part in by_head]) for head in range(heads)]
    return {"memory": erased_and_added(memory, after[0], sigmoid(erase), add), "focus": np.stack(after)}


@pytest.mark.parametrize("shift_range", [0, 1, 2])
@pytest.mark.parametrize("reads", [False, True])
@torch.no_grad()
def test_the_machine_is_its_formula(reads: bool, shift_range: int) -> None:
    machine = machine_of(reads, shift_range)
    segments, valid = histories()
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        state = start_of(machine.initial(1))
        np.testing.assert_allclose(state["focus"], [softmax(row) for row in weights_of(machine)["start_focus"]])
        agree(trace, user, 0, state)
        for boundary, events in enumerate(events_by_segment(segments, valid, user), start=1):
            for event in events:
                state = event_folded(machine, state, event)
            agree(trace, user, boundary, state)
    assert not torch.equal(trace["memory"][3, SEGMENTS], trace["memory"][3, 0])
    slots = machine.slots({name: values[:, -1] for name, values in trace.items()})
    assert torch.equal(slots.keys, trace["memory"][:, -1])
    assert torch.equal(slots.values, trace["memory"][:, -1])
    assert slots.valid.all()


@torch.no_grad()
def test_a_head_stands_somewhere_however_hard_it_is_sharpened() -> None:
    machine = machine_of(reads=True, shift_range=1)
    machine.steer.bias.fill_(300.0)
    segments, valid = histories()
    focus = machine.scan(machine.initial(USERS), segments, valid)["focus"]
    assert torch.isfinite(focus).all()
    torch.testing.assert_close(focus.sum(dim=-1), torch.ones_like(focus[..., 0]))


def test_keep_bias_is_how_much_an_event_erases_at_the_start() -> None:
    held = []
    for keep_bias in (-3.0, 0.0, 3.0):
        torch.manual_seed(0)
        machine = NtmMachine(NtmMemory(num_slots=SLOTS, slot_dim=DIM, keep_bias=keep_bias), DIM)
        held.append(float(sum_of_starts_left(machine)))
    assert held[0] < held[1] < held[2]


@torch.no_grad()
def sum_of_starts_left(machine: NtmMachine) -> torch.Tensor:
    """How much of its start each row still holds after an event of zeros."""
    state = machine.initial(1)
    after = machine.write(state, torch.zeros(1, 1, DIM), torch.ones(1, 1, dtype=torch.bool))
    return (after["memory"] / state["memory"]).sum()
