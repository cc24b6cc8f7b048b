"""Every check refuses a machine, a reader or a source that breaks its promise, and says what was seen."""

import subprocess
import sys
from typing import Any

import pytest

from rm_rec.machines.mean_pool import MeanPool, MeanPoolMachine
from rm_rec.readers.attention import AttentionReader
from rm_rec.testing import (
    MACHINE_CHECKS,
    READER_CHECKS,
    SOURCE_CHECKS,
    Check,
    ContractError,
    MachineCase,
    ReaderCase,
    check_machine,
    check_reader,
    check_source,
)
from tests.contracts.wrong_machines import WRONG_MACHINES
from tests.contracts.wrong_readers import WRONG_READERS
from tests.contracts.wrong_sources import WRONG_SOURCES

WRONG: list[tuple[Check[Any], Any, str]] = [
    *((MACHINE_CHECKS[name], case, seen) for name, wrong in WRONG_MACHINES.items() for case, seen in wrong),
    *(
        (READER_CHECKS[name], ReaderCase(reader), seen)
        for name, wrong in WRONG_READERS.items()
        for reader, seen in wrong
    ),
    *((SOURCE_CHECKS[name], case, seen) for name, wrong in WRONG_SOURCES.items() for case, seen in wrong),
]


@pytest.mark.parametrize(("check", "case", "seen"), WRONG, ids=lambda value: getattr(value, "name", None))
def test_a_broken_promise_is_named(check: Check[Any], case: Any, seen: str) -> None:
    with pytest.raises(ContractError) as caught:
        check(case)
    first_line = str(caught.value).splitlines()[0]
    assert first_line.startswith(f'{case} breaks the promise "{check.promise}" ({check.name}): ')
    assert seen in first_line.removeprefix(str(case))
    assert isinstance(caught.value, AssertionError)


def test_every_check_has_one_that_it_refuses() -> None:
    assert set(WRONG_MACHINES) == set(MACHINE_CHECKS)
    assert set(WRONG_READERS) == set(READER_CHECKS)
    assert set(WRONG_SOURCES) == set(SOURCE_CHECKS)
    checks = [*MACHINE_CHECKS.values(), *READER_CHECKS.values(), *SOURCE_CHECKS.values()]
    assert all(check.promise != check.name for check in checks), "each says its promise"


@pytest.mark.parametrize("name", WRONG_MACHINES)
def test_one_call_refuses_every_wrong_machine(name: str) -> None:
    for case, _ in WRONG_MACHINES[name]:
        with pytest.raises(ContractError):
            check_machine(case.machine, case.config)


@pytest.mark.parametrize("name", WRONG_READERS)
def test_one_call_refuses_every_wrong_reader(name: str) -> None:
    for reader, _ in WRONG_READERS[name]:
        with pytest.raises(ContractError, match=reader.__name__):
            check_reader(reader)


@pytest.mark.parametrize("name", WRONG_SOURCES)
def test_one_call_refuses_every_wrong_source(name: str) -> None:
    for case, _ in WRONG_SOURCES[name]:
        with pytest.raises(ContractError):
            check_source(case.make, plant=case.plant)


def test_the_settings_and_the_size_are_the_callers() -> None:
    (large, _), *_ = WRONG_MACHINES["a_state_is_small"]
    check_machine(large.machine, large.config, max_bytes=4096)
    with pytest.raises(ContractError, match=r"^RingBufferMachine\(num_slots=40\) breaks the promise .* 2564 bytes"):
        check_machine(large.machine, large.config)
    with pytest.raises(ContractError, match=r"^Silent\(num_heads=2\) of slots of 8 numbers breaks"):
        check_reader(WRONG_READERS["a_memory_without_a_valid_slot_answers_zero"][1][0], AttentionReader(num_heads=2))


def test_a_machine_is_checked_alone_and_behind_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not MachineCase(MeanPoolMachine).encoded
    met: list[MachineCase] = []
    monkeypatch.setattr("rm_rec.testing.machines.MACHINE_CHECKS", {"met": met.append})
    settings = MeanPool()
    check_machine(MeanPoolMachine, settings, max_bytes=99)
    assert met == [MachineCase(MeanPoolMachine, settings, encoded, 99) for encoded in (False, True)]


def test_no_test_runner_is_needed() -> None:
    code = "import rm_rec.testing, sys; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
