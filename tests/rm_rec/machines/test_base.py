"""A machine has a write or a scan: one follows from the other, and with neither it is refused where it is defined."""

import pytest
import torch
from torch import Tensor

from rm_rec.config.base import MachineSettings
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class SumByWriting(MemoryMachine):
    """A user's sum of events; says how a segment is folded."""

    config_type = MachineSettings
    slot_dim = 3

    def state_spec(self) -> StateSpec:
        return {"sum": (3,)}

    def initial(self, num_users: int) -> State:
        return {"sum": torch.zeros(num_users, 3)}

    def slots(self, state: State) -> Slots:
        keys = state["sum"][:, None]
        return Slots(keys, keys, torch.ones(len(keys), 1, dtype=torch.bool))

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        return {"sum": state["sum"] + (segment * valid[..., None]).sum(dim=1)}


class SumByScanning(SumByWriting):
    """The same; says how a stretch is folded."""

    write = MemoryMachine.write

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        sums = (segments * valid[..., None]).sum(dim=2).cumsum(dim=1)
        return {"sum": torch.cat([state["sum"][:, None], state["sum"][:, None] + sums], dim=1)}


def test_either_of_write_and_scan_gives_the_other() -> None:
    torch.manual_seed(0)
    segments, valid = torch.randn(2, 5, 4, 3), torch.rand(2, 5, 4) > 0.3
    by_writing, by_scanning = SumByWriting(), SumByScanning()
    start = {"sum": torch.randn(2, 3)}
    one, other = by_writing.scan(start, segments, valid), by_scanning.scan(start, segments, valid)
    torch.testing.assert_close(one["sum"], other["sum"])
    once, again = (machine.write(start, segments[:, 0], valid[:, 0]) for machine in (by_writing, by_scanning))
    torch.testing.assert_close(once["sum"], again["sum"])


def test_a_machine_with_neither_is_refused() -> None:
    with pytest.raises(TypeError, match="Forgetful has neither write nor scan"):

        class Forgetful(SumByWriting):
            write, scan = MemoryMachine.write, MemoryMachine.scan
