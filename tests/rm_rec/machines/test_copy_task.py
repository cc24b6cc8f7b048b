"""The task by which the papers show their memories: a sequence of bits is dictated, then recited."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rm_rec.config.machines import DncMemory, NtmMemory
from rm_rec.machines.base import MemoryMachine, StateTrace
from rm_rec.machines.dnc import DncMachine
from rm_rec.machines.ntm import NtmMachine

BITS, LONGEST = 4, 5
TOKEN = BITS + 2  # and whether it is to be written, or recited


def dictations(num_users: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw bits [U, T, BITS], and the events that dictate them and then ask for them, a segment each."""
    bits = torch.randint(2, (num_users, length, BITS), generator=generator).float()
    events = torch.zeros(num_users, 2 * length, TOKEN)
    events[:, :length, :BITS] = 2.0 * bits - 1.0
    events[:, :length, BITS] = 1.0
    events[:, length:, BITS + 1] = 1.0
    return bits, events[:, :, None]


class Reciter(nn.Module):
    """What the machine's own read head finds, event by event, as bits."""

    def __init__(self, machine: MemoryMachine) -> None:
        super().__init__()
        self.machine = machine
        self.bits = nn.Linear(machine.slot_dim, BITS)

    def forward(self, events: Tensor) -> Tensor:
        trace = self.machine.scan(self.machine.initial(len(events)), events, torch.ones(events.shape[:3]).bool())
        length = events.shape[1] // 2
        return self.bits((read_weight(trace)[:, :, None] @ trace["memory"]).squeeze(2)[:, -length:])


def read_weight(trace: StateTrace) -> Tensor:
    """Where the read head stands: the second of an NTM's two, the only one of this DNC."""
    return trace["focus"][:, :, 1] if "focus" in trace else trace["read"][:, :, 0]


MACHINES = {
    "ntm": lambda: NtmMachine(NtmMemory(num_slots=8, slot_dim=8, controller_reads=True), TOKEN),
    "dnc": lambda: DncMachine(DncMemory(num_slots=8, slot_dim=8, controller_reads=True, temporal_links=True), TOKEN),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_a_sequence_is_copied(name: str) -> None:
    torch.manual_seed(0)
    reciter = Reciter(MACHINES[name]())
    optimizer = torch.optim.Adam(reciter.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for step in range(1500):
        bits, events = dictations(32, 1 + step % LONGEST, generator)
        loss = binary_cross_entropy_with_logits(reciter(events), bits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reciter.parameters(), 1.0)
        optimizer.step()
    for length in range(1, LONGEST + 1):
        bits, events = dictations(500, length, torch.Generator().manual_seed(1))
        with torch.no_grad():
            right = ((reciter(events) > 0) == bits.bool()).float().mean()
        assert right > 0.99, f"of {length}: {right:.3f}"
