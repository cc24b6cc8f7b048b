"""Memory machines: what folds segments of events into a state of fixed size. One file a machine, one line here."""

from typing import Final

from rm_rec.config import Machine, NoMachine
from rm_rec.machines.associative import AssociativeMachine
from rm_rec.machines.base import MemoryMachine
from rm_rec.machines.count_sketch import CountSketchMachine
from rm_rec.machines.dnc import DncMachine
from rm_rec.machines.expire_span import ExpireSpanMachine
from rm_rec.machines.hpmn import HpmnMachine
from rm_rec.machines.learned_queries import LearnedQueriesMachine
from rm_rec.machines.mean_pool import MeanPoolMachine
from rm_rec.machines.mimn import MimnMachine
from rm_rec.machines.ntm import NtmMachine
from rm_rec.machines.rehearsal import RehearsalMachine
from rm_rec.machines.ring_buffer import RingBufferMachine
from rm_rec.machines.rum import RumMachine
from rm_rec.machines.transformer_xl import TransformerXLMachine

MACHINES: Final[dict[str, type[MemoryMachine]]] = {
    "rehearsal": RehearsalMachine,
    "associative": AssociativeMachine,
    "mean_pool": MeanPoolMachine,
    "hpmn": HpmnMachine,
    "rum": RumMachine,
    "ntm": NtmMachine,
    "dnc": DncMachine,
    "mimn": MimnMachine,
    "ring_buffer": RingBufferMachine,
    "transformer_xl": TransformerXLMachine,
    "expire_span": ExpireSpanMachine,
    "learned_queries": LearnedQueriesMachine,
    "count_sketch": CountSketchMachine,
}


def build_machine(config: Machine, token_dim: int) -> MemoryMachine | None:
    """Make the machine that the config names; None where it names none."""
    return None if isinstance(config, NoMachine) else MACHINES[config.kind](config, token_dim)
