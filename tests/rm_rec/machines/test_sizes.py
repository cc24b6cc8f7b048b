"""Any machine can be given as many slots as a number of bytes holds."""

import pytest
from pydantic import TypeAdapter

from rm_rec.config import Machine
from rm_rec.config.machines import NoMachine
from rm_rec.errors import ConfigError
from rm_rec.machines import build_machine
from rm_rec.machines.sizes import fit_state, state_bytes
from tests.support.fakes import KINDS

TOKEN_DIM = 32


def default(kind: str, **settings: int) -> Machine:
    config: Machine = TypeAdapter(Machine).validate_python({"kind": kind} | settings)
    return config


def bytes_of(config: Machine) -> int:
    machine = build_machine(config, TOKEN_DIM)
    assert machine is not None
    return state_bytes(machine)


@pytest.mark.parametrize("num_bytes", [700, 2048, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_state_fills_the_bytes_and_one_size_more_does_not_fit(kind: str, num_bytes: int) -> None:
    fitted = fit_state(default(kind), TOKEN_DIM, num_bytes)
    assert bytes_of(fitted) <= num_bytes
    machine = build_machine(fitted, TOKEN_DIM)
    assert machine is not None
    if machine.size_setting is not None:
        size = getattr(fitted, machine.size_setting)
        assert bytes_of(fitted.model_copy(update={machine.size_setting: size + 1})) > num_bytes


def test_other_settings_stay() -> None:
    fitted = fit_state(default("ntm", slot_dim=8, controller_dim=5), TOKEN_DIM, 1024)
    assert (fitted.slot_dim, fitted.controller_dim) == (8, 5)


def test_no_machine_has_no_size() -> None:
    assert fit_state(NoMachine(), TOKEN_DIM, 1) == NoMachine()


@pytest.mark.parametrize("kind", ["mean_pool", "associative", "mimn", "hpmn"])
def test_what_cannot_fit_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"machine {kind} cannot be fitted to 20 bytes a user"):
        fit_state(default(kind), TOKEN_DIM, 20)
