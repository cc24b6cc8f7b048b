"""Machines equal loops in NumPy, written from the formulas in their docstrings."""

import math

import numpy as np
import torch

from rm_rec.config.machines import AssociativeMemory, MeanPool, SlotGruMemory
from rm_rec.machines.associative import AssociativeMachine
from rm_rec.machines.mean_pool import MeanPoolMachine
from rm_rec.machines.slot_gru import SlotGruMachine
from tests.parity.small_histories import DIM, USERS, histories, numpy_of, real_events, sigmoid
from tests.support.fakes import scrambled


def slot_gru_write(machine: SlotGruMachine, slots: np.ndarray, events: list[np.ndarray]) -> np.ndarray:
    """Slot-to-item attention, then m_k <- m_k + w_k (GRU(l_k, m_k) - m_k) with w_k = total / (total + exp(null_k))."""
    if not events:
        return slots
    query, key, value = (numpy_of(layer.weight) for layer in (machine.query, machine.key, machine.value))
    w, b = numpy_of(machine.from_events.weight), numpy_of(machine.from_events.bias)
    u, c = numpy_of(machine.from_memory.weight), numpy_of(machine.from_memory.bias)
    dim = slots.shape[1]
    keep, reset, new = slice(0, dim), slice(dim, 2 * dim), slice(2 * dim, 3 * dim)
    written = np.empty_like(slots)
    for k, memory in enumerate(slots):
        logits = [(query @ memory) @ (key @ event) / math.sqrt(dim) for event in events]
        total = sum(math.exp(logit) for logit in logits)
        read = np.zeros(dim)
        for logit, event in zip(logits, events, strict=True):
            read += math.exp(logit) / total * (value @ event)
        z = sigmoid(w[keep] @ read + b[keep] + u[keep] @ memory + c[keep])
        r = sigmoid(w[reset] @ read + b[reset] + u[reset] @ memory + c[reset])
        candidate = np.tanh(w[new] @ read + b[new] + r * (u[new] @ memory + c[new]))
        weight = total / (total + math.exp(machine.null[k]))
        written[k] = memory + weight * (z * memory + (1.0 - z) * candidate - memory)
    return written


@torch.no_grad()
def test_the_slot_gru_machine_is_its_formula() -> None:
    machine = scrambled(SlotGruMachine(SlotGruMemory(num_slots=4, slot_dim=6), DIM))
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)["slots"].numpy()
    for user in range(USERS):
        slots = numpy_of(machine.start)
        for segment in range(4):
            np.testing.assert_allclose(trace[user, segment], slots, atol=1e-6)
            slots = slot_gru_write(machine, slots, real_events(segments, valid, user, segment))
        np.testing.assert_allclose(trace[user, 4], slots, atol=1e-6)


@torch.no_grad()
def test_the_associative_machine_is_its_formula() -> None:
    machine = scrambled(AssociativeMachine(AssociativeMemory(num_slots=4, slot_dim=6), DIM))
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    key, value = numpy_of(machine.key.weight), numpy_of(machine.value.weight)
    address, keep = numpy_of(machine.address), sigmoid(numpy_of(machine.keep))
    for user in range(USERS):
        sums, counts = np.zeros((4, 6)), np.zeros(4)
        for segment in range(4):
            np.testing.assert_allclose(trace["sum"][user, segment].numpy(), sums, atol=1e-6)
            events = real_events(segments, valid, user, segment)
            if events:
                sums, counts = sums * keep[:, None], counts * keep
            for event in events:
                weight = np.exp(address @ (key @ event))
                weight /= weight.sum()
                for k in range(4):
                    sums[k] += weight[k] * (value @ event)
                    counts[k] += weight[k]
        np.testing.assert_allclose(trace["sum"][user, 4].numpy(), sums, atol=1e-5)
        np.testing.assert_allclose(trace["count"][user, 4].numpy(), counts, atol=1e-5)
        slots = machine.slots({name: values[user : user + 1, 4] for name, values in trace.items()})
        for k in range(4):
            content = sums[k] / math.sqrt(1.0 + counts[k])
            np.testing.assert_allclose(slots.values[0, k].numpy(), [*content, math.log1p(counts[k])], atol=1e-5)
            seen = [*(content + address[k]), math.log1p(counts[k])]
            np.testing.assert_allclose(slots.keys[0, k].numpy(), seen, atol=1e-5)
            assert bool(slots.valid[0, k]) == (counts[k] > 0)


@torch.no_grad()
def test_the_gate_is_pytorchs_gru_cell() -> None:
    """An independent reference for the gates' order: nn.GRUCell stacks reset, update, new."""
    dim = 6
    machine = scrambled(SlotGruMachine(SlotGruMemory(num_slots=4, slot_dim=dim), DIM))
    machine.null.fill_(-1e4)  # every event counts whole
    cell = torch.nn.GRUCell(dim, dim)
    ours = torch.cat([torch.arange(dim, 2 * dim), torch.arange(dim), torch.arange(2 * dim, 3 * dim)])
    cell.weight_ih.copy_(machine.from_events.weight[ours])
    cell.bias_ih.copy_(machine.from_events.bias[ours])
    cell.weight_hh.copy_(machine.from_memory.weight[ours])
    cell.bias_hh.copy_(machine.from_memory.bias[ours])
    # With one event, each slot reads that event's value.
    event = torch.randn(2, 1, DIM, generator=torch.Generator().manual_seed(0))
    slots = torch.randn(2, 4, dim, generator=torch.Generator().manual_seed(1))
    found = machine.write({"slots": slots}, event, torch.ones(2, 1, dtype=torch.bool))["slots"]
    read = machine.value(event).expand(2, 4, dim).reshape(8, dim)
    torch.testing.assert_close(found.view(8, dim), cell(read, slots.view(8, dim)), atol=1e-6, rtol=0)


def test_keep_bias_is_how_much_a_slot_holds_on_at_the_start() -> None:
    held = []
    for keep_bias in (-4.0, 0.0, 4.0):
        torch.manual_seed(0)
        machine = SlotGruMachine(SlotGruMemory(num_slots=4, slot_dim=6, keep_bias=keep_bias), DIM)
        segments, valid = histories(torch.float32)
        trace = machine.scan(machine.initial(USERS), segments, valid)["slots"]
        held.append(float((trace[3, -1] - trace[3, 0]).detach().norm()))
    assert held[0] > held[1] > held[2]


@torch.no_grad()
def test_a_slot_for_which_a_segment_has_nothing_stays_as_it_was() -> None:
    machine = scrambled(SlotGruMachine(SlotGruMemory(num_slots=4, slot_dim=6), DIM))
    machine.null[0] = 1e4
    segments, valid = histories(torch.float32)
    state = machine.initial(USERS)
    written = machine.write(state, segments[:, 0], valid[:, 0])
    torch.testing.assert_close(written["slots"][:, 0], state["slots"][:, 0], atol=0, rtol=0)
    assert not torch.allclose(written["slots"][-1, 1], state["slots"][-1, 1])


def test_mean_pool_is_the_mean_of_all_events() -> None:
    machine = MeanPoolMachine(MeanPool(), DIM)
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for boundary in range(5):
        slots = machine.slots({name: values[:, boundary] for name, values in trace.items()})
        for user in range(USERS):
            events = [e for segment in range(boundary) for e in real_events(segments, valid, user, segment)]
            assert slots.valid[user].tolist() == [bool(events)]
            mean = np.mean(events, axis=0) if events else np.zeros(DIM)
            np.testing.assert_allclose(slots.values[user, 0].numpy(), mean, atol=1e-6)
            np.testing.assert_allclose(slots.keys[user, 0].numpy(), mean, atol=1e-6)
