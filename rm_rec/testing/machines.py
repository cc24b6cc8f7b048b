"""The promises of every memory machine: `check_machine`, and a check for each promise."""

from collections.abc import Mapping
from typing import Final

import torch
from pydantic import BaseModel
from safetensors.torch import load, save

from rm_rec.machines.base import MemoryMachine, last_state
from rm_rec.testing.contract import (
    Check,
    by_name,
    check_gradient,
    copy_of,
    expect,
    expect_finite,
    expect_identical,
    send_backward,
)
from rm_rec.testing.machine_case import Folding, MachineCase, full_histories, histories
from rm_rec.testing.machine_writing import WRITING


def settings_are_the_machines_own(case: MachineCase) -> None:
    """A machine is built from settings of its `config_type`, and settings read from their JSON are the same."""
    kind, settings = case.machine.config_type, case.settings
    expect(isinstance(settings, kind), f"its settings are {type(settings).__name__}, its config_type {kind.__name__}")
    again = kind.model_validate_json(settings.model_dump_json())
    expect(again == settings, f"settings {settings!s} are {again!s} after writing and reading JSON")


@torch.no_grad()
def a_state_has_the_size_its_spec_says(case: MachineCase) -> None:
    """A state has the float32 parts that `state_spec` returns, however much was written."""
    folding = case.folding()
    spec = folding.machine.state_spec()
    for num_segments in (0, 1, 50):
        initial = folding.initial(2)
        after = last_state(folding.scan(initial, *full_histories(2, num_segments)))
        for state in (initial, after):
            found = {name: tuple(values.shape) for name, values in state.items()}
            expected = {name: (2, *shape) for name, shape in spec.items()}
            expect(
                found == expected,
                f"the state of two users after {num_segments} segments is {found}, state_spec says {expected}",
            )
            types = {str(values.dtype) for values in state.values()}
            expect(types <= {"torch.float32"}, f"parts of the state are {sorted(types)}, expected torch.float32")


def a_state_is_small(case: MachineCase) -> None:
    """A user's stored state takes at most 2 KB (or `max_bytes`) for token_dim 32, with exact parts as float32."""
    machine = case.machine(case.settings, 32)
    spec = machine.state_spec()
    unknown = set(machine.exact_parts) - set(spec)
    expect(not unknown, f"exact_parts names {sorted(unknown)}, but the parts are {sorted(spec)}")
    found = sum(torch.Size(shape).numel() * (4 if name in machine.exact_parts else 2) for name, shape in spec.items())
    expect(found <= case.max_bytes, f"a state takes {found} bytes, expected at most {case.max_bytes}")


@torch.no_grad()
def what_grows_with_the_history_is_kept_exactly(case: MachineCase) -> None:
    """A part that grows with the history is in `exact_parts`: in float16, a large sum or count stops growing."""
    folding = case.folding()
    segments, valid = full_histories(1, 120)
    trace = folding.scan(folding.initial(1), segments + 1.0, valid)
    halves = {name: (values[:, :61].abs().max(), values[:, 61:].abs().max()) for name, values in trace.items()}
    growing = {name for name, (first, second) in halves.items() if second > 1.5 * first + 1}
    wrong = sorted(growing - set(folding.machine.exact_parts))
    expect(not wrong, f"parts {wrong} grow with the history, exact_parts are {folding.machine.exact_parts}")


@torch.no_grad()
def saving_and_loading_is_exact(case: MachineCase) -> None:
    """After saving and loading weights and states, initial states and folding are exactly the same."""
    folding, again = case.folding(), case.folding(seed=5)
    segments, valid = histories()
    state = folding.written()
    again.load_state_dict(load(save({name: values.contiguous() for name, values in folding.state_dict().items()})))
    loaded = load(save({name: values.contiguous() for name, values in state.items()}))
    expect_identical(loaded, state, "of a loaded state")
    expect_identical(again.initial(3), folding.initial(3), "of initial, with loaded weights")
    expected = folding.scan(state, segments, valid)
    expect_identical(again.scan(loaded, segments, valid), expected, "of scan, with loaded weights")


@torch.no_grad()
def reading_changes_nothing(case: MachineCase) -> None:
    """Reading the slots does not change the state, and a second reading gives the same slots."""
    folding = case.folding()
    state = folding.written()
    before = copy_of(state)
    readings = [folding.machine.slots(state) for _ in range(2)]
    first, second = ({"keys": slots.keys, "values": slots.values, "valid": slots.valid} for slots in readings)
    expected = copy_of(first)
    folding.machine.slots(state)
    expect_identical(state, before, "of a state that was read")
    expect_identical(first, expected, "of slots after another reading")
    expect_identical(second, expected, "of slots at a second reading")


@torch.no_grad()
def slots_have_the_size_that_readers_are_built_for(case: MachineCase) -> None:
    """Slots are finite and have `slot_dim` numbers, and some are valid after a write."""
    folding = case.folding()
    dim = folding.machine.slot_dim
    for when, state in (("initial", folding.initial(2)), ("written", folding.written(2))):
        slots = folding.machine.slots(state)
        shapes = tuple(slots.keys.shape), tuple(slots.values.shape), tuple(slots.valid.shape)
        expected = (2, shapes[2][-1], dim), (2, shapes[2][-1], dim), (2, shapes[2][-1])
        expect(shapes == expected, f"keys, values and valid of the {when} state are {shapes}, expected {expected}")
        expect(slots.valid.dtype == torch.bool, f"valid is {slots.valid.dtype}, expected torch.bool")
        expect_finite(slots.keys, f"keys of the {when} state")
        expect_finite(slots.values, f"values of the {when} state")
        if slots.log_weight is not None:
            shape = tuple(slots.log_weight.shape)
            expect(shape == shapes[2], f"log_weight of the {when} state is {shape}, expected {shapes[2]}")
            expect_finite(slots.log_weight, f"log_weight of the {when} state")
    expect(slots.valid.any(dim=1).all(), "no slot of a user is valid after 24 events")


@torch.no_grad()
def slots_differ_from_each_other(case: MachineCase) -> None:
    """No two slots are equal before training, at any history length: equal slots would stay equal."""
    folding = case.folding(fresh=True)
    for num_segments in (0, 1, 12):
        slots = folding.machine.slots(last_state(folding.scan(folding.initial(2), *full_histories(2, num_segments))))
        distances = torch.cdist(slots.keys, slots.keys) + torch.cdist(slots.values, slots.values)
        apart = ~torch.eye(slots.keys.shape[1], dtype=torch.bool)
        closest = float(distances[:, apart].min()) if apart.any() else 1.0
        expect(closest > 1e-2, f"two slots are {closest:.3g} apart after {num_segments} segments, expected over 0.01")


def gradients_are_finite_after_2000_events(case: MachineCase) -> None:
    """Gradients through 2,000 events are finite, and reach the last event and every weight."""
    _check_gradients(case.folding(segment_length=20))


def gradients_are_finite_when_training_starts(case: MachineCase) -> None:
    """Gradients through 2,000 events are finite with the initial weights."""
    _check_gradients(case.folding(fresh=True, segment_length=20))


def _check_gradients(folding: Folding) -> None:
    folding.train()
    segments, valid = full_histories(2, 100, length=20)
    segments.requires_grad_()
    valid[1, 60:] = False
    slots = folding.machine.slots(last_state(folding.scan(folding.initial(2), segments, valid)))
    loss = slots.keys.square().sum() + slots.values.square().sum()
    if slots.log_weight is not None:
        loss = loss + slots.log_weight.masked_fill(~slots.valid, 0.0).square().sum()
    send_backward(loss)
    gradient = check_gradient(segments.grad, "the events")
    expect(gradient[0, -1].any(), "the events of the last segment have a gradient of zero")
    expect(not gradient[1, 60:].any(), "padding has a gradient")
    for name, weight in folding.machine.named_parameters():
        check_gradient(weight.grad, f"weight {name!r}")


def a_penalty_is_one_finite_number(case: MachineCase) -> None:
    """The penalty is None or one finite number, also for a batch without users."""
    folding = case.folding()
    for num_users in (0, 2):
        for state in (folding.initial(num_users), folding.written(num_users or 1)):
            if (penalty := folding.machine.penalty(state)) is not None:
                expect(penalty.shape == (), f"the penalty has shape {tuple(penalty.shape)}, expected one number")
                expect_finite(penalty, f"the penalty of {num_users} users")


MACHINE_CHECKS: Final[Mapping[str, Check[MachineCase]]] = by_name(
    (
        settings_are_the_machines_own,
        a_state_has_the_size_its_spec_says,
        a_state_is_small,
        *WRITING,
        what_grows_with_the_history_is_kept_exactly,
        saving_and_loading_is_exact,
        reading_changes_nothing,
        slots_have_the_size_that_readers_are_built_for,
        slots_differ_from_each_other,
        gradients_are_finite_after_2000_events,
        gradients_are_finite_when_training_starts,
        a_penalty_is_one_finite_number,
    )
)


def check_machine(machine: type[MemoryMachine], config: BaseModel | None = None, *, max_bytes: int = 2048) -> None:
    """Check everything that machines promise, with and without an encoder before the machine.

    The machine is built as `machine(config, token_dim)`, with its default settings if none are given; token_dim is 8,
    and 32 to count the bytes of a state. Raises ContractError for the first promise that is broken.

    >>> from rm_rec.machines.mean_pool import MeanPoolMachine
    >>> check_machine(MeanPoolMachine)
    """
    for encoded in (False, True):
        for check in MACHINE_CHECKS.values():
            check(MachineCase(machine, config, encoded, max_bytes))
