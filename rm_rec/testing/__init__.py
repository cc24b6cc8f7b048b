"""The contracts of machines, readers and sources of answers, for tests of those that are written elsewhere.

One call holds a class to everything that its contract promises:

>>> from rm_rec.machines.mean_pool import MeanPoolMachine
>>> from rm_rec.testing import check_machine
>>> check_machine(MeanPoolMachine)

To have a test case for each promise, call the checks of MACHINE_CHECKS, READER_CHECKS or SOURCE_CHECKS (by name) with a
case. pytest is not needed.
"""

from rm_rec.testing.contract import Check, ContractError
from rm_rec.testing.machine_case import MachineCase
from rm_rec.testing.machines import MACHINE_CHECKS, check_machine
from rm_rec.testing.reader_case import ReaderCase
from rm_rec.testing.readers import READER_CHECKS, check_reader
from rm_rec.testing.source_case import SourceCase
from rm_rec.testing.sources import SOURCE_CHECKS, check_source

__all__ = [
    "MACHINE_CHECKS",
    "READER_CHECKS",
    "SOURCE_CHECKS",
    "Check",
    "ContractError",
    "MachineCase",
    "ReaderCase",
    "SourceCase",
    "check_machine",
    "check_reader",
    "check_source",
]
