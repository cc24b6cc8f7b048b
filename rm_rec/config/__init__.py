"""Settings of models: frozen blocks of plain values, saved as JSON beside the weights and read without torch."""

from rm_rec.config.base import EncoderSettings, MachineSettings, ReaderSettings, Settings, SourceSettings
from rm_rec.config.encoders import Encoder, NoEncoder, TransformerEncoder
from rm_rec.config.machines import AssociativeMemory, Machine, NoMachine
from rm_rec.config.model import ClickHead, FeatureSpace, MemoryConfig, ModelConfig
from rm_rec.config.outside import OutsideSettings
from rm_rec.config.readers import AttentionReader, Reader
from rm_rec.config.rehearsal import (
    LearntSampler,
    RehearsalConfig,
    Sampler,
    StudentSampler,
    TeacherSampler,
    UniformSampler,
)
from rm_rec.config.sources import Source
from rm_rec.config.windows import LastEvents, RecentSegments, WholeHistory, Window

__all__ = [
    "AssociativeMemory",
    "AttentionReader",
    "ClickHead",
    "Encoder",
    "EncoderSettings",
    "FeatureSpace",
    "LastEvents",
    "LearntSampler",
    "Machine",
    "MachineSettings",
    "MemoryConfig",
    "ModelConfig",
    "NoEncoder",
    "NoMachine",
    "OutsideSettings",
    "Reader",
    "ReaderSettings",
    "RecentSegments",
    "RehearsalConfig",
    "Sampler",
    "Settings",
    "Source",
    "SourceSettings",
    "StudentSampler",
    "TeacherSampler",
    "TransformerEncoder",
    "UniformSampler",
    "WholeHistory",
    "Window",
]
