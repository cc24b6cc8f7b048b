"""The periodic memory equals a loop in NumPy over events and layers, and moves when its paper says."""

import numpy as np
import pytest
import torch

from rm_rec.config.machines import HpmnMemory
from rm_rec.machines.hpmn import HpmnMachine
from tests.parity.small_histories import (
    DIM,
    USERS,
    agree,
    events_by_segment,
    gated_recurrent,
    histories,
    start_of,
    weights_of,
)
from tests.support.fakes import scrambled

ROW = 4


def machine_of(num_layers: int, growth: int) -> HpmnMachine:
    return scrambled(HpmnMachine(HpmnMemory(num_layers=num_layers, slot_dim=ROW, growth=growth), DIM)).double()


def event_folded(machine: HpmnMachine, growth: int, state: dict[str, np.ndarray], event: np.ndarray) -> None:
    state["steps"] = state["steps"] + 1.0
    below = event
    for layer, unit in enumerate(machine.layers):
        if state["steps"] % growth**layer:
            break
        weights = {name.removesuffix("_l0"): weight for name, weight in weights_of(unit).items()}
        below = state["layers"][layer] = gated_recurrent(weights, below, state["layers"][layer])


@pytest.mark.parametrize("before", [0, 1, 5, 1000])
@pytest.mark.parametrize(("num_layers", "growth"), [(1, 2), (4, 2), (3, 3)])
@torch.no_grad()
def test_the_machine_is_its_formula(num_layers: int, growth: int, before: int) -> None:
    machine = machine_of(num_layers, growth)
    segments, valid = histories()
    initial = machine.initial(USERS)
    assert not initial["steps"].any()
    # Users come in at different moments of their periods.
    initial["steps"] = before + torch.arange(USERS, dtype=torch.float64)
    trace = machine.scan(initial, segments, valid)
    for user in range(USERS):
        state = start_of(initial, user)
        agree(trace, user, 0, state)
        for boundary, events in enumerate(events_by_segment(segments, valid, user), start=1):
            for event in events:
                event_folded(machine, growth, state, event)
            agree(trace, user, boundary, state)
            slots = machine.slots({name: values[user : user + 1, boundary] for name, values in trace.items()})
            np.testing.assert_allclose(slots.keys[0].numpy(), state["layers"], atol=1e-9)
            assert torch.equal(slots.values, slots.keys)
            seen = [bool(state["steps"] >= growth**layer) for layer in range(num_layers)]
            assert slots.valid[0].tolist() == seen


@torch.no_grad()
def test_layers_move_at_their_periods() -> None:
    machine = machine_of(num_layers=4, growth=2)
    events = torch.randn(1, 20, 1, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = machine.scan(machine.initial(1), events, torch.ones(1, 20, 1, dtype=torch.bool))["layers"][0]
    moved = (layers[1:] != layers[:-1]).any(dim=-1)
    for layer, period in enumerate((1, 2, 4, 8)):
        assert moved[:, layer].nonzero().flatten().tolist() == list(range(period - 1, 20, period))


@torch.no_grad()
def test_the_penalty_is_half_the_squared_covariances_of_different_layers() -> None:
    weight = 0.3
    machine = HpmnMachine(HpmnMemory(num_layers=3, slot_dim=ROW, covariance_weight=weight), DIM)
    layers = torch.randn(5, 3, ROW, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for user in layers.numpy().astype(np.float64):
        covariance = np.cov(user, bias=True)
        expected += ((covariance**2).sum() - (np.diag(covariance) ** 2).sum()) / 2.0
    penalty = machine.penalty({"layers": layers, "steps": torch.zeros(5)})
    assert float(penalty) == pytest.approx(weight * expected / 5.0, rel=1e-5)


def test_keep_bias_is_how_much_a_layer_holds_on_at_the_start() -> None:
    held = []
    for keep_bias in (-4.0, 0.0, 4.0):
        torch.manual_seed(0)
        machine = HpmnMachine(HpmnMemory(num_layers=2, slot_dim=ROW, keep_bias=keep_bias), DIM)
        segments, valid = histories()
        trace = machine.scan(machine.initial(USERS), segments.float(), valid)["layers"]
        held.append(float((trace[3, -1] - trace[3, 0]).detach().norm()))
    assert held[0] > held[1] > held[2]
