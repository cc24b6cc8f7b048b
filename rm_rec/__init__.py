"""Lifelong memory of each user for click models: tensors only, no disk, no tables."""

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace, MemoryConfig, ModelConfig
from rm_rec.errors import RmRecError
from rm_rec.model import ClickModel
from rm_rec.user_memory import UserMemory

__all__ = ["ClickModel", "FeatureSpace", "MemoryConfig", "ModelConfig", "RmRecError", "UserBatch", "UserMemory"]
