"""The memory of many interests equals a loop in NumPy, written from its formulas."""

import numpy as np
import pytest
import torch

from rm_rec.config.machines import MimnMemory
from rm_rec.machines.mimn import MimnMachine
from tests.parity.small_histories import (
    DIM,
    USERS,
    agree,
    by_content,
    cut,
    erased_and_added,
    events_by_segment,
    gated_recurrent,
    histories,
    sigmoid,
    softmax,
    softplus,
    start_of,
    weights_of,
)
from tests.support.fakes import scrambled

SLOTS, ROW, CONTROLLER = 6, 4, 7


def machine_of(reads: bool, num_channels: int = 2) -> MimnMachine:
    config = MimnMemory(
        num_slots=SLOTS,
        slot_dim=ROW,
        controller_dim=CONTROLLER,
        controller_reads=reads,
        num_channels=num_channels,
        utilization_weight=0.3,
    )
    return scrambled(MimnMachine(config, DIM), std=0.6).double()


def evened_out(machine: MimnMachine, usage: np.ndarray) -> np.ndarray:
    share = usage / max(usage.sum(), 1.0)
    logits = machine.even_out.weight.numpy() @ share + machine.even_out.bias.numpy()
    return np.stack([softmax(row) for row in logits.reshape(SLOTS, SLOTS)])


def event_folded(
    machine: MimnMachine, state: dict[str, np.ndarray], event: np.ndarray, even: np.ndarray
) -> dict[str, np.ndarray]:
    memory, channels = state["memory"], state["channels"].copy()
    controller = {name.removesuffix("_l0"): weight for name, weight in weights_of(machine.controller).items()}
    seen = np.concatenate([event, state["read"]]) if machine.controller_reads else event
    hidden = gated_recurrent(controller, seen, state["controller"])
    steered = machine.steer.weight.numpy() @ hidden + machine.steer.bias.numpy()
    read_key, write_key, strength, erase, add = cut(steered, [ROW, ROW, 2, ROW, ROW])
    read_weight = by_content(np.tanh(read_key), softplus(strength[0]), memory)
    write_weight = by_content(np.tanh(write_key), softplus(strength[1]), memory)
    evened = np.zeros(SLOTS)
    for row in range(SLOTS):
        evened += write_weight[row] * even[row]
    after = erased_and_added(memory, evened, sigmoid(erase), np.tanh(add))
    for row in np.argsort(-read_weight)[: machine.num_channels]:
        seen = np.concatenate([event, after[row]])
        channels[row] = gated_recurrent(weights_of(machine.induce), seen, channels[row])
    folded = {"memory": after, "channels": channels, "usage": state["usage"] + evened, "controller": hidden}
    return folded | ({"read": read_weight @ memory} if machine.controller_reads else {})


@pytest.mark.parametrize("num_channels", [1, 2, SLOTS])
@pytest.mark.parametrize("reads", [False, True])
@torch.no_grad()
def test_the_machine_is_its_formula(reads: bool, num_channels: int) -> None:
    machine = machine_of(reads, num_channels)
    segments, valid = histories()
    trace = machine.scan(machine.initial(USERS), segments, valid)
    for user in range(USERS):
        state = start_of(machine.initial(1))
        assert all(not values.any() for name, values in state.items() if name not in ("memory", "channels"))
        agree(trace, user, 0, state)
        for boundary, events in enumerate(events_by_segment(segments, valid, user), start=1):
            even = evened_out(machine, state["usage"])
            for event in events:
                state = event_folded(machine, state, event, even)
            agree(trace, user, boundary, state)
        assert state["usage"].sum() == pytest.approx(float(valid[user].sum()))
    slots = machine.slots({name: values[:, -1] for name, values in trace.items()})
    rows = torch.cat([trace["memory"][:, -1], trace["channels"][:, -1]], dim=1)
    assert torch.equal(slots.keys, rows)
    assert torch.equal(slots.values, rows)
    assert slots.valid.all()


@torch.no_grad()
def test_the_penalty_falls_as_rows_are_used_more_evenly() -> None:
    machine = machine_of(reads=False)

    def penalty(*usage: list[float]) -> float:
        return float(machine.penalty({"usage": torch.tensor(usage)}))

    one, two, even = [30.0, 0, 0, 0, 0, 0], [20.0, 10.0, 0, 0, 0, 0], [5.0] * SLOTS
    assert penalty(one) == pytest.approx(0.3 * (SLOTS - 1))
    assert penalty(one) > penalty(two) > penalty(even)
    assert penalty(even) == pytest.approx(0.0, abs=1e-6)
    assert penalty([10.0 * used for used in two]) == pytest.approx(penalty(two)), "it does not grow with a history"
    assert penalty(one, even) == pytest.approx(penalty(one) / 2)
    assert penalty(one, [0.0] * SLOTS) == pytest.approx(penalty(one)), "who has not written does not count"
    assert penalty([0.0] * SLOTS) == 0.0


def test_training_on_the_penalty_makes_writing_even() -> None:
    torch.manual_seed(0)
    machine = MimnMachine(MimnMemory(num_slots=SLOTS, slot_dim=DIM, utilization_weight=1.0), DIM)
    segments, valid = histories()
    optimizer = torch.optim.Adam(machine.even_out.parameters(), lr=0.1)
    penalties = []
    for _ in range(25):
        trace = machine.scan(machine.initial(USERS), segments.float(), valid)
        penalty = machine.penalty({name: values[:, -1] for name, values in trace.items()})
        penalties.append(float(penalty.detach()))
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert penalties[-1] < 0.3 * penalties[0], penalties
