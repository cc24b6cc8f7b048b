"""The Differentiable Neural Computer equals a loop in NumPy, written from its paper's "Methods"."""

import numpy as np
import pytest
import torch

from rm_rec.config.machines import DncMemory
from rm_rec.machines.dnc import DncMachine
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


def machine_of(reads: bool, links: bool, read_heads: int) -> DncMachine:
    config = DncMemory(
        num_slots=SLOTS,
        slot_dim=ROW,
        controller_dim=CONTROLLER,
        controller_reads=reads,
        temporal_links=links,
        read_heads=read_heads,
    )
    return scrambled(DncMachine(config, DIM), std=0.6).double()


def allocation(usage: np.ndarray) -> np.ndarray:
    """By the list of rows in order of usage: a_(phi_j) = (1 - u_(phi_j)) prod_(i < j) u_(phi_i)."""
    share = np.zeros(SLOTS)
    used_before = 1.0
    for row in np.argsort(usage, kind="stable"):
        share[row] = (1.0 - usage[row]) * used_before
        used_before *= usage[row]
    return share


def event_folded(machine: DncMachine, state: dict[str, np.ndarray], event: np.ndarray) -> dict[str, np.ndarray]:
    weights, R = weights_of(machine), machine.read_heads
    memory, usage, written, read = (state[name] for name in ("memory", "usage", "written", "read"))
    seen = weights["from_event.weight"] @ event
    if machine.from_read is not None:
        seen = seen + weights["from_read.weight"] @ np.concatenate([read[head] @ memory for head in range(R)])
    hidden = (seen - seen.mean()) / np.sqrt(seen.var() + 1e-5)
    hidden = hidden * weights["normalise.weight"] + weights["normalise.bias"]
    steered = weights["steer.weight"] @ hidden + weights["steer.bias"]
    num_modes = 3 * R if machine.temporal_links else 0
    key, strength, free, write_gate, allocation_gate, erase, write, modes = cut(
        steered, [(R + 1) * ROW, R + 1, R, 1, 1, ROW, ROW, num_modes]
    )
    key, strength = key.reshape(R + 1, ROW), 1.0 + softplus(strength)
    kept = np.ones(SLOTS)
    for head in range(R):
        kept *= 1.0 - sigmoid(free[head]) * read[head]
    usage = (usage + written - usage * written) * kept
    content = by_content(key[R], strength[R], memory)
    gate = sigmoid(allocation_gate[0])
    written = sigmoid(write_gate[0]) * (gate * allocation(usage) + (1.0 - gate) * content)
    memory = erased_and_added(memory, written, sigmoid(erase), write)
    found = np.stack([by_content(key[head], strength[head], memory) for head in range(R)])
    after = {"memory": memory, "usage": usage, "written": written, "read": found}
    if not machine.temporal_links:
        return after
    links, last = np.zeros((SLOTS, SLOTS)), state["last"]
    for i in range(SLOTS):
        for j in range(SLOTS):
            if i != j:
                links[i, j] = (1.0 - written[i] - written[j]) * state["links"][i, j] + written[i] * last[j]
    after |= {"links": links, "last": (1.0 - written.sum()) * last + written}
    for head in range(R):
        backward, content, forward = softmax(modes[3 * head : 3 * head + 3])
        ways = backward * (links.T @ read[head]) + forward * (links @ read[head])
        after["read"][head] = ways + content * found[head]
    return after


@pytest.mark.parametrize("read_heads", [1, 2])
@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("reads", [False, True])
@torch.no_grad()
def test_the_machine_is_its_formula(reads: bool, links: bool, read_heads: int) -> None:
    machine = machine_of(reads, links, read_heads)
    segments, valid = histories()
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        state = start_of(machine.initial(1))
        assert all(not values.any() for name, values in state.items() if name != "memory")
        agree(trace, user, 0, state)
        for boundary, events in enumerate(events_by_segment(segments, valid, user), start=1):
            for event in events:
                state = event_folded(machine, state, event)
            agree(trace, user, boundary, state)
    slots = machine.slots({name: values[:, -1] for name, values in trace.items()})
    assert torch.equal(slots.keys, trace["memory"][:, -1])
    assert torch.equal(slots.values, trace["memory"][:, -1])
    assert slots.valid.all()


@torch.no_grad()
def test_what_is_read_before_anything_is_written() -> None:
    """A reader sees the learned rows; the controller sees nothing, so that the first event alone steers its heads."""
    machine = machine_of(reads=True, links=True, read_heads=2)
    state = machine.initial(USERS)
    slots = machine.slots(state)
    for rows in (slots.keys, slots.values):
        assert torch.equal(rows, machine.start.expand(USERS, SLOTS, ROW))
    assert machine.start.abs().min() > 0
    deaf = machine_of(reads=True, links=True, read_heads=2)
    deaf.load_state_dict(machine.state_dict())
    assert deaf.from_read is not None
    deaf.from_read.weight.zero_()
    segments, _ = histories()
    every = torch.ones(USERS, SEGMENTS, 1, dtype=torch.bool)
    heard, alone = (one.scan(state, segments[:, :, :1], every)["memory"] for one in (machine, deaf))
    assert torch.equal(heard[:, 1], alone[:, 1])
    assert (heard[:, 2] - alone[:, 2]).abs().amax(dim=(1, 2)).min() > 1e-3


@torch.no_grad()
def test_rows_are_taken_one_after_another_while_there_is_room() -> None:
    """With the allocation gate open and nothing freed, event n goes to row n, and leaves the others as they were."""
    machine = machine_of(reads=False, links=False, read_heads=1)
    machine.steer.weight.zero_()
    _, _, free, write_gate, allocation_gate, *_ = machine.steer.bias.split(machine.sizes)
    free.fill_(-1000.0)
    write_gate.fill_(1000.0)
    allocation_gate.fill_(1000.0)
    segments, _ = histories()
    every = torch.ones(USERS, 2, 3, dtype=torch.bool)
    trace = machine.scan(machine.initial(USERS), segments[:, :2].reshape(USERS, 6, 1, DIM), every.view(USERS, 6, 1))
    for event in range(6):
        expected = torch.eye(SLOTS, dtype=torch.float64)[event].expand(USERS, -1)
        torch.testing.assert_close(trace["written"][:, event + 1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_that_is_freed_is_taken_again() -> None:
    machine = machine_of(reads=False, links=False, read_heads=1)
    usage = torch.tensor([[0.9, 0.8, 0.7, 0.95, 0.85, 0.99]], dtype=torch.float64)
    state = machine.initial(1) | {"usage": usage, "read": torch.eye(SLOTS, dtype=torch.float64)[3].view(1, 1, SLOTS)}
    machine.steer.weight.zero_()
    _, _, free, write_gate, allocation_gate, *_ = machine.steer.bias.split(machine.sizes)
    write_gate.fill_(1000.0)
    allocation_gate.fill_(1000.0)
    for gate, row in ((-1000.0, 2), (1000.0, 3)):
        free.fill_(gate)
        after = machine.write(state, torch.zeros(1, 1, DIM, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool))
        assert int(after["written"].argmax()) == row
