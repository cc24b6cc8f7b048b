"""Settings of a model, and the features and table sizes of the data it is trained on."""

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
    """The network that computes a click's logit from the target and the answers of memory and window."""

    hidden_dims: tuple[int, ...] = (64, 32)
    """Sizes of the hidden layers."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability after each hidden layer."""


class MemoryConfig(Settings):
    """Settings of `UserMemory`.

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
    """Number of events in a segment, which are folded into the state together."""
    bptt_segments: int = Field(32, ge=1)
    """Largest number of segments that gradients pass through: more learn longer dependencies, and need more memory."""
    encoder: Encoder = NoEncoder()
    """How a segment's events are transformed before they are folded."""
    machine: Machine = AssociativeMemory()
    """How segments are folded into a state of fixed size."""
    reader: Reader = AttentionReader()
    """How a target reads the slots of a state."""
    window: Window = RecentSegments()
    """Which recent events are kept as raw events beside the state, and attended to."""
    sources: dict[SourceName, Source] = Field(default_factory=dict)
    """Further sources of answers beside window and slots, each under a name of your choice."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "MemoryConfig":
        for name in ("encoder", "machine", "reader", "window"):
            block = getattr(self, name)
            # The meaning of an outside class's keys is not known before the class is imported.
            heads = 1 if isinstance(block, OutsideSettings) else getattr(block, "num_heads", 1)
            if self.token_dim % heads:
                raise ValueError(f"{name}.num_heads is {heads}, which does not divide token_dim {self.token_dim}")
        return self


class ModelConfig(MemoryConfig):
    """The click model: encoder, memory machine, reader, recent window and click head.

    >>> ModelConfig(segment_length=16, token_dropout=0.0).head.hidden_dims
    (64, 32)
    """

    embedding_std: float = Field(0.3, gt=0.0, le=1.0)
    """Standard deviation of the embeddings' initial values."""
    token_dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Dropout probability on the embeddings of events and targets, against memorising them."""
    head: ClickHead = ClickHead()


class FeatureSpace(Settings):
    """The features of the data, and the number of rows of each one's embedding table; events and targets share tables.

    >>> rows = {"item": 5000, "category": 20, "hour": 24}
    >>> space = FeatureSpace(rows=rows, events=("item", "category"), targets=("item", "category"), context=("hour",))
    >>> space.num_context_dense
    0
    """

    rows: dict[str, Annotated[int, Field(ge=1)]]
    """Number of rows of each feature's embedding table."""
    events: tuple[str, ...]
    """Names of an event's features."""
    targets: tuple[str, ...]
    """Names of a target's features: those of its item."""
    context: tuple[str, ...] = ()
    """Names of an impression's categorical features."""
    num_context_dense: int = Field(0, ge=0)
    """Number of an impression's numeric features."""

    @model_validator(mode="after")
    def _tables_exist(self) -> "FeatureSpace":
        used = {*self.events, *self.targets, *self.context}
        missing = used - set(self.rows)
        if missing:
            raise ValueError(f"features {sorted(missing)} are used but have no number of rows: add them to rows")
        if not self.events or not self.targets:
            raise ValueError("events and targets need at least one feature each")
        if unused := set(self.rows) - used:
            raise ValueError(f"rows names {sorted(unused)}, which no event, target or context uses: leave them out")
        if refused := sorted(name for name in used if "." in name or name == "time_gap"):
            raise ValueError(f"features cannot be named {refused}: time_gap is reserved, and names have no dots")
        return self
