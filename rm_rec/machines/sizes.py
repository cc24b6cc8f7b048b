"""The number of bytes of a user's state, and machine settings fitted to a given number of bytes."""

import math
from bisect import bisect_right
from collections.abc import Collection

import torch
from pydantic import ValidationError

from rm_rec.config.base import MachineSettings
from rm_rec.config.machines import NoMachine
from rm_rec.errors import ConfigError
from rm_rec.machines import MACHINES, build_machine
from rm_rec.machines.base import MemoryMachine
from rm_rec.outside import load_outside

_LARGEST = 4096  # value of size_setting that is tried


def state_bytes(machine: MemoryMachine) -> int:
    """Return the number of bytes of one user's state: float16, and float32 for `exact_parts`.

    >>> from rm_rec.config.machines import AssociativeMemory
    >>> from rm_rec.machines import MACHINES
    >>> state_bytes(MACHINES["associative"](AssociativeMemory(num_slots=31, slot_dim=32), token_dim=32))
    2046
    """
    return sum(
        math.prod(shape) * (4 if name in machine.exact_parts else 2) for name, shape in machine.state_spec().items()
    )


def fit_state(
    config: MachineSettings, token_dim: int, num_bytes: int, allowed_packages: Collection[str] = ()
) -> MachineSettings:
    """Return a machine's settings with the largest `size_setting` (number of slots) that `num_bytes` per user allow.

    A machine without `size_setting` keeps its settings. Raises ConfigError if the smallest state is larger, and if the
    machine is of a package that is not allowed.

    >>> from rm_rec.config.machines import AssociativeMemory
    >>> fit_state(AssociativeMemory(slot_dim=32), token_dim=32, num_bytes=1024).num_slots
    15
    """
    if isinstance(config, NoMachine):
        return config
    if config.kind not in MACHINES:
        _, own = load_outside(config, MemoryMachine, allowed_packages, "machine")
        assert isinstance(own, MachineSettings)
        config = own
    machine = _machine(config, token_dim)
    setting = machine.size_setting
    if setting is None:
        fixed = state_bytes(machine)
        if fixed <= num_bytes:
            return config
        raise _too_large(config, fixed, num_bytes)
    if setting not in type(config).model_fields:
        raise ConfigError(
            f"machine {config.kind} has size_setting {setting!r}, which its settings lack; set size_setting to the "
            "setting that its state grows with, or to None"
        )
    current = getattr(config, setting)

    def bytes_of_size(size: int) -> int:
        try:
            return state_bytes(_machine(_resized(config, setting, size), token_dim))
        except ValidationError:  # the size is below the smallest allowed one, or above the largest
            return 0 if size < current else num_bytes + 1

    size = bisect_right(range(1, _LARGEST + 1), num_bytes, key=bytes_of_size)
    try:
        return _resized(config, setting, size)
    except ValidationError:
        raise _too_large(config, int(bytes_of_size(current)), num_bytes) from None


def _machine(config: MachineSettings, token_dim: int) -> MemoryMachine:
    with torch.device("meta"):  # only shapes are needed
        machine = build_machine(config, token_dim)
    assert machine is not None
    return machine


def _resized(config: MachineSettings, setting: str, size: int) -> MachineSettings:
    return type(config).model_validate(config.model_dump() | {setting: size})


def _too_large(config: MachineSettings, needed: int, num_bytes: int) -> ConfigError:
    return ConfigError(
        f"machine {config.kind} cannot be fitted to {num_bytes:,} bytes a user: with these settings it takes "
        f"{needed:,}; allow more bytes, or give it a smaller slot_dim"
    )
