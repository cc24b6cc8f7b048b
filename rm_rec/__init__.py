"""Lifelong memory of each user for click models: tensors only, no disk, no tables.

What is named here is imported when it is first asked for: torch and torchrec take seconds, and a job that reads tables
alone, or an error's class, needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rm_rec.batch import UserBatch
    from rm_rec.config import FeatureSpace, MemoryConfig, ModelConfig, RehearsalConfig
    from rm_rec.errors import RmRecError
    from rm_rec.model import ClickModel
    from rm_rec.user_memory import UserMemory

_WHERE = {
    "ClickModel": "model",
    "FeatureSpace": "config",
    "MemoryConfig": "config",
    "ModelConfig": "config",
    "RehearsalConfig": "config",
    "RmRecError": "errors",
    "UserBatch": "batch",
    "UserMemory": "user_memory",
}
__all__ = [
    "ClickModel",
    "FeatureSpace",
    "MemoryConfig",
    "ModelConfig",
    "RehearsalConfig",
    "RmRecError",
    "UserBatch",
    "UserMemory",
]


def __getattr__(name: str) -> Any:
    """Import one of the names above."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
