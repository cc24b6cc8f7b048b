"""Feature-level user memory equals a loop in NumPy, written from its formulas."""

import numpy as np
import torch

from rm_rec.config.machines import RumMemory
from rm_rec.machines.rum import RumMachine
from tests.parity.small_histories import (
    DIM,
    USERS,
    agree,
    erased_and_added,
    events_by_segment,
    histories,
    sigmoid,
    softmax,
    weights_of,
)
from tests.support.fakes import scrambled

SLOTS, ROW, SHARPNESS = 6, 4, 3.0


@torch.no_grad()
def test_the_machine_is_its_formula() -> None:
    machine = scrambled(RumMachine(RumMemory(num_slots=SLOTS, slot_dim=ROW, sharpness=SHARPNESS), DIM)).double()
    weights = weights_of(machine)
    segments, valid = histories()
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        memory = np.zeros((SLOTS, ROW))
        agree(trace, user, 0, {"memory": memory})
        for boundary, events in enumerate(events_by_segment(segments, valid, user), start=1):
            for event in events:
                query = weights["query.weight"] @ event
                share = softmax(np.array([SHARPNESS * query @ key / np.sqrt(ROW) for key in weights["features"]]))
                erase = sigmoid(weights["erase.weight"] @ query + weights["erase.bias"])
                add = np.tanh(weights["add.weight"] @ query + weights["add.bias"])
                memory = erased_and_added(memory, share, erase, add)
            agree(trace, user, boundary, {"memory": memory})
            slots = machine.slots({"memory": trace["memory"][user : user + 1, boundary]})
            np.testing.assert_allclose(slots.values[0].numpy(), memory, atol=1e-9)
            assert slots.valid[0].tolist() == [bool(memory.any())] * SLOTS
            assert torch.equal(slots.keys[0], machine.features)


@torch.no_grad()
def test_an_event_goes_to_the_feature_that_it_is_like() -> None:
    torch.manual_seed(0)
    machine = RumMachine(RumMemory(num_slots=SLOTS, slot_dim=DIM, sharpness=50.0, keep_bias=0.0), DIM)
    for feature in range(SLOTS):
        event = machine.features[feature].view(1, 1, DIM)
        memory = machine.write(machine.initial(1), event, torch.ones(1, 1, dtype=torch.bool))["memory"][0]
        expected = torch.zeros(SLOTS, DIM)
        expected[int((machine.features @ machine.features[feature]).argmax())] = torch.tanh(event[0, 0])
        torch.testing.assert_close(memory, expected, atol=1e-2, rtol=0)
        again = machine.write({"memory": memory[None]}, event, torch.ones(1, 1, dtype=torch.bool))["memory"][0]
        torch.testing.assert_close(again, 1.5 * expected, atol=1e-2, rtol=0)
