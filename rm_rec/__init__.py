"""Lifelong memory of each user for click models: tensors only, no disk, no tables.

A name is imported when it is first used: importing torch and torchrec takes seconds, and settings, errors and jobs that
only read tables need neither. Only a `ClickModel` whose embedding tables can be sharded needs torchrec.

>>> import rm_rec
>>> "UserMemory" in dir(rm_rec)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm_rec.batch import Candidates, UserBatch
    from rm_rec.config import (
        EncoderSettings,
        FeatureSpace,
        MachineSettings,
        MemoryConfig,
        ModelConfig,
        ReaderSettings,
        RehearsalConfig,
        SourceSettings,
    )
    from rm_rec.encoder import SegmentEncoder
    from rm_rec.errors import BatchError, ConfigError, RmRecError
    from rm_rec.histories import Histories, Queries
    from rm_rec.machines.base import MemoryMachine, Slots
    from rm_rec.memory_state import MemoryState
    from rm_rec.model import ClickModel
    from rm_rec.readers.base import Reader
    from rm_rec.rehearsal.objective import RehearsalObjective
    from rm_rec.sources.base import AnswerSource, StatePart
    from rm_rec.stretch_loss import sum_of_losses
    from rm_rec.user_memory import UserMemory

    __version__: str

_WHERE = {
    "AnswerSource": "sources.base",
    "BatchError": "errors",
    "Candidates": "batch",
    "ClickModel": "model",
    "ConfigError": "errors",
    "EncoderSettings": "config",
    "FeatureSpace": "config",
    "Histories": "histories",
    "MachineSettings": "config",
    "MemoryConfig": "config",
    "MemoryMachine": "machines.base",
    "MemoryState": "memory_state",
    "ModelConfig": "config",
    "Queries": "histories",
    "Reader": "readers.base",
    "ReaderSettings": "config",
    "RehearsalConfig": "config",
    "RehearsalObjective": "rehearsal.objective",
    "RmRecError": "errors",
    "SegmentEncoder": "encoder",
    "Slots": "machines.base",
    "SourceSettings": "config",
    "StatePart": "sources.base",
    "UserBatch": "batch",
    "UserMemory": "user_memory",
    "sum_of_losses": "stretch_loss",
}
__all__ = [
    "AnswerSource",
    "BatchError",
    "Candidates",
    "ClickModel",
    "ConfigError",
    "EncoderSettings",
    "FeatureSpace",
    "Histories",
    "MachineSettings",
    "MemoryConfig",
    "MemoryMachine",
    "MemoryState",
    "ModelConfig",
    "Queries",
    "Reader",
    "ReaderSettings",
    "RehearsalConfig",
    "RehearsalObjective",
    "RmRecError",
    "SegmentEncoder",
    "Slots",
    "SourceSettings",
    "StatePart",
    "UserBatch",
    "UserMemory",
    "__version__",
    "sum_of_losses",
]


def __getattr__(name: str) -> Any:
    """Import one of the names above."""
    if name == "__version__":
        from importlib.metadata import version

        return version("rm-rec")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    """List all names that can be imported, for completion in notebooks and shells."""
    return sorted({*globals(), *__all__})
