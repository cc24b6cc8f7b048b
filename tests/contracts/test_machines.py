"""Every machine of MACHINES keeps the contract of rm_rec.testing, alone or behind an encoder.

Each machine meets each check, and each of both meets events as they are and encoded ones: no machine is checked for
the same promise twice.
"""

from typing import get_args

import pytest
from pydantic import TypeAdapter

from rm_rec.config import Machine, OutsideSettings
from rm_rec.machines import MACHINES, build_machine
from rm_rec.testing import MACHINE_CHECKS, MachineCase

CASES = [
    pytest.param(kind, name, bool((row + column) % 2), id=f"{name}-{kind}-{('alone', 'encoded')[(row + column) % 2]}")
    for row, kind in enumerate(sorted(MACHINES))
    for column, name in enumerate(MACHINE_CHECKS)
]


@pytest.mark.parametrize(("kind", "check", "encoded"), CASES)
def test_a_machine_keeps_its_contract(kind: str, check: str, encoded: bool) -> None:
    MACHINE_CHECKS[check](MachineCase(MACHINES[kind], encoded=encoded))


def test_every_machine_can_be_configured_by_the_name_it_has_in_the_table() -> None:
    assert {kind: machine.config_type().kind for kind, machine in MACHINES.items()} == {kind: kind for kind in MACHINES}
    *configs, others = get_args(get_args(Machine)[0])
    assert [config().kind for config in configs] == [*MACHINES, "none"]
    assert others is OutsideSettings


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_a_kind_builds_the_class_it_names(kind: str) -> None:
    config: Machine = TypeAdapter(Machine).validate_python({"kind": kind})
    assert type(build_machine(config, 8)) is MACHINES[kind]


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_what_is_saved_of_a_machine_is_what_it_learns(kind: str) -> None:
    """What settings alone determine is made from them: files stay small, and old ones are read."""
    machine = MachineCase(MACHINES[kind]).folding().machine
    drawn = {"direction"} if kind == "count_sketch" else set()
    assert set(machine.state_dict()) == set(dict(machine.named_parameters())) | drawn
