"""Contract tests for machines, readers and answer sources, including those of other packages.

One call checks a class against everything that its base class promises:

>>> from rm_rec.machines.mean_pool import MeanPoolMachine
>>> from rm_rec.testing import check_machine
>>> check_machine(MeanPoolMachine)

For a test case per promise, call each check in MACHINE_CHECKS, READER_CHECKS or SOURCE_CHECKS with a MachineCase,
ReaderCase or SourceCase. pytest is not required.
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
