"""Settings of a model, and the sizes that the data gave."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from rm_rec.config.base import Settings
from rm_rec.config.encoders import Encoder, NoEncoder
from rm_rec.config.machines import AssociativeMemory, Machine
from rm_rec.config.outside import OutsideSettings
from rm_rec.config.readers import AttentionReader, Reader
from rm_rec.config.sources import Source
from rm_rec.config.windows import RecentSegments, Window


def _source_name(name: str) -> str:
    if not name.isidentifier() or name in ("window", "slots"):
        raise ValueError(f"{name!r} cannot name a source: expected a Python identifier, and not window or slots")
    return name


SourceName = Annotated[str, AfterValidator(_source_name)]


class ClickHead(Settings):
    """The network from a target and what memory and window answered to the logit of a click."""

    hidden_dims: tuple[int, ...] = (64, 32)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class MemoryConfig(Settings):
    """What `UserMemory` is built from.

    >>> from rm_rec.config.machines import RumMemory
    >>> config = MemoryConfig(token_dim=16, machine=RumMemory(num_slots=8))
    >>> MemoryConfig.model_validate_json(config.model_dump_json()) == config
    True
    >>> MemoryConfig.model_validate({"machine": {"kind": "ring_buffer"}}).machine.kind
    'ring_buffer'
    """

    token_dim: int = Field(32, ge=1, le=1024)
    """Size of an event's and a target's vector."""
    segment_length: int = Field(32, ge=1, le=4096)
    """Events folded at once (N)."""
    bptt_segments: int = Field(32, ge=1)
    """Gradients pass through at most this many writes; memory use does not grow beyond them."""
    encoder: Encoder = NoEncoder()
    machine: Machine = AssociativeMemory()
    reader: Reader = AttentionReader()
    window: Window = RecentSegments()
    sources: dict[SourceName, Source] = Field(default_factory=dict)
    """Further sources of answers, by names of your choice, beside window and slots."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "MemoryConfig":
        for name in ("encoder", "machine", "reader", "window"):
            block = getattr(self, name)
            # What an outside class's keys mean is not known before it is imported.
            heads = 1 if isinstance(block, OutsideSettings) else getattr(block, "num_heads", 1)
            if self.token_dim % heads:
                raise ValueError(f"{name}.num_heads is {heads}, which does not divide token_dim {self.token_dim}")
        return self


class ModelConfig(MemoryConfig):
    """What `ClickModel` is built from, but for the features.

    >>> ModelConfig(segment_length=16, token_dropout=0.0).head.hidden_dims
    (64, 32)
    """

    embedding_std: float = Field(0.3, gt=0.0, le=1.0)
    """Spread of the embeddings before training."""
    token_dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Share of the numbers of events' and targets' vectors that training sets to 0, lest it learn them by heart."""
    head: ClickHead = ClickHead()


class FeatureSpace(Settings):
    """The features that the data has, and the rows of each one's embedding table; events and targets share tables.

    >>> rows = {"item": 5000, "category": 20, "hour": 24}
    >>> space = FeatureSpace(rows=rows, events=("item", "category"), targets=("item", "category"), context=("hour",))
    >>> space.num_context_dense
    0
    """

    rows: dict[str, Annotated[int, Field(ge=1)]]
    """Feature -> rows of its table."""
    events: tuple[str, ...]
    """Features of an event."""
    targets: tuple[str, ...]
    """Features of a target: those of its item."""
    context: tuple[str, ...] = ()
    """Categorical features of an impression."""
    num_context_dense: int = Field(0, ge=0)
    """How many numeric features an impression has."""

    @model_validator(mode="after")
    def _tables_exist(self) -> "FeatureSpace":
        used = {*self.events, *self.targets, *self.context}
        missing = used - set(self.rows)
        if missing:
            raise ValueError(f"features without a number of rows: {sorted(missing)}")
        if not self.events or not self.targets:
            raise ValueError("events and targets need at least one feature each")
        if unused := set(self.rows) - used:
            raise ValueError(f"features with a number of rows that nothing uses: {sorted(unused)}")
        if refused := sorted(name for name in used if "." in name or name == "time_gap"):
            raise ValueError(f"no feature can be named {refused}: time_gap is the model's own, and dots part names")
        return self
