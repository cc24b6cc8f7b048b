"""Memory machines, which fold segments of events into a state of fixed size.

Each machine has a file here, a line in MACHINES, and its settings in rm_rec/config/machines.py (docs/add-a-machine.md).
"""

from collections.abc import Collection
from typing import Final

from rm_rec.config.base import MachineSettings
from rm_rec.config.machines import NoMachine
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
from rm_rec.machines.ring_buffer import RingBufferMachine
from rm_rec.machines.rum import RumMachine
from rm_rec.machines.slot_gru import SlotGruMachine
from rm_rec.machines.transformer_xl import TransformerXLMachine
from rm_rec.outside import load_outside

# The default, simple ones, then those of the literature by year; each key is the `kind` of the machine's settings.
MACHINES: Final[dict[str, type[MemoryMachine]]] = {
    "associative": AssociativeMachine,
    "mean_pool": MeanPoolMachine,
    "count_sketch": CountSketchMachine,
    "ring_buffer": RingBufferMachine,
    "ntm": NtmMachine,
    "dnc": DncMachine,
    "rum": RumMachine,
    "transformer_xl": TransformerXLMachine,
    "hpmn": HpmnMachine,
    "mimn": MimnMachine,
    "expire_span": ExpireSpanMachine,
    "slot_gru": SlotGruMachine,
    "learned_queries": LearnedQueriesMachine,
}


def build_machine(
    config: MachineSettings, token_dim: int, allowed_packages: Collection[str] = ()
) -> MemoryMachine | None:
    """Build the machine that the config names; None for `NoMachine`.

    A class of another package, named by a kind such as acme.machines:Fading, is imported only if the package is one of
    `allowed_packages`, or if the settings are a Python object of that package; raises ConfigError otherwise.
    """
    if isinstance(config, NoMachine):
        return None
    if config.kind in MACHINES:
        return MACHINES[config.kind](config, token_dim)
    machine, settings = load_outside(config, MemoryMachine, allowed_packages, "machine")
    return machine(settings, token_dim)
