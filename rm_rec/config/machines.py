"""Settings of the memory machines, one class for each file in rm_rec/machines."""

from typing import TYPE_CHECKING, ClassVar, Final, Literal

from pydantic import Field, model_validator

from rm_rec.config.base import MachineSettings as MachineSettings
from rm_rec.config.outside import one_of


class NoMachine(MachineSettings):
    """No memory: the click head sees only the window of recent events (used by the baselines)."""

    kind: Literal["none"] = "none"


class AssociativeMemory(MachineSettings):
    """Slots that compete for each event; each sums the events that it wins."""

    kind: Literal["associative"] = "associative"
    num_slots: int = Field(31, ge=1, le=1024)
    """Number of slots per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a slot's vector. A state has num_slots x (slot_dim + 1) numbers: 31 x 33 are 2,046 bytes in float16."""
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """At the start of training, each segment leaves a slot sigmoid(keep_bias) of its content: higher forgets less."""


class MeanPool(MachineSettings):
    """The mean of all events folded so far: the baseline that every memory should beat."""

    kind: Literal["mean_pool"] = "mean_pool"


class CountSketch(MachineSettings):
    """Exponentially decayed counts in hashed buckets, without trained weights: a baseline for repeated behaviour."""

    kind: Literal["count_sketch"] = "count_sketch"
    num_buckets: int = Field(256, ge=1, le=4096)
    """Number of buckets: 256 take 1 KB per user in float32 (in float16, counts above 2,048 could not grow by 1)."""
    sharpness: float = Field(32.0, gt=0.0, le=1000.0)
    """Factor on the logits of the softmax that spreads an event over buckets: higher counts it in fewer buckets."""
    half_life: float = Field(1000.0, gt=0.0)
    """Number of later events after which an event's count has halved."""
    seed: int = Field(0, ge=0)
    """Random seed for the buckets' directions."""


class RingBuffer(MachineSettings):
    """The last events, unchanged (the memory that the MemNN, MemN2N and ToMMY recipes read)."""

    kind: Literal["ring_buffer"] = "ring_buffer"
    num_slots: int = Field(31, ge=1, le=4096)
    """Number of events kept: 31 vectors of 32 numbers, and a count, are 1,988 bytes in float16."""


class NtmMemory(MachineSettings):
    """The memory of a Neural Turing Machine: rows addressed by content and location (Graves et al. 2014)."""

    kind: Literal["ntm"] = "ntm"
    num_slots: int = Field(31, ge=1, le=1024)
    """Number of memory rows per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a row. A state has num_slots x (slot_dim + 1) numbers, or num_slots x (slot_dim + 2) with
    controller_reads: 31 x 33 are 2,046 bytes in float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    """Hidden size of the feed-forward controller."""
    controller_reads: bool = False
    """Feed the vector read at the last event to the controller, as in the paper: half as fast, without a gain in click
    AUC where we tried it."""
    shift_range: int = Field(1, ge=0, le=16)
    """Largest number of rows that a head can shift by at an event, in either direction."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """At the start of training, an event erases sigmoid(-keep_bias) of the rows it writes to: higher forgets less."""


class DncMemory(MachineSettings):
    """The memory of a Differentiable Neural Computer: rows written by content or where free (Graves et al. 2016)."""

    kind: Literal["dnc"] = "dnc"
    num_slots: int = Field(29, ge=1, le=1024)
    """Number of memory rows per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a row. A state has num_slots x (slot_dim + 2 + read_heads) numbers: 29 x 35 are 2,030 bytes in
    float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    """Hidden size of the feed-forward controller."""
    controller_reads: bool = False
    """Feed the vectors read at the last event to the controller, as in the paper: slower."""
    read_heads: int = Field(1, ge=1, le=8)
    """Number of read heads."""
    temporal_links: bool = False
    """Record which row was written after which: num_slots x (num_slots + 1) more numbers per user."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """At the start of training, an event erases sigmoid(-keep_bias) of the rows it writes to: higher forgets less."""


class RumMemory(MachineSettings):
    """Feature-level user memory: rows under keys that all users share, written by erase and add (Chen et al. 2018)."""

    kind: Literal["rum"] = "rum"
    num_slots: int = Field(32, ge=1, le=1024)
    """Number of memory rows per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a row. A state has num_slots x slot_dim numbers: 32 x 32 are 2 KB in float16."""
    sharpness: float = Field(4.0, gt=0.0, le=100.0)
    """Factor on the logits of an event's attention over rows (the paper's beta): higher writes to fewer rows; 1 is
    plain scaled attention."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """At the start of training, an event erases sigmoid(-keep_bias) of the rows it writes to: higher forgets less."""


class TransformerXL(MachineSettings):
    """A cache of the last hidden states of each layer (Transformer-XL, ACL 2019)."""

    kind: Literal["transformer_xl"] = "transformer_xl"
    cache_length: int = Field(15, ge=1, le=4096)
    """Events kept at each of num_layers + 1 levels: 2 x 15 x 32 numbers and a count are 1,924 bytes in float16."""
    num_layers: int = Field(1, ge=1, le=8)
    """Number of transformer layers."""
    num_heads: int = Field(2, ge=1)
    """Number of attention heads; must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)
    """Hidden size of the feed-forward layers."""


class HpmnMemory(MachineSettings):
    """Stacked recurrent layers, each updated less often than the one below it (Ren et al. 2019)."""

    kind: Literal["hpmn"] = "hpmn"
    num_layers: int = Field(10, ge=1, le=24)
    """Number of recurrent layers; layer j is updated at every growth^j-th event."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Hidden size of a layer. A state has num_layers x slot_dim numbers and a count: 10 x 32 are 644 bytes with float16
    rows."""
    growth: int = Field(2, ge=2, le=64)
    """Factor from one layer's update period to the next layer's."""
    keep_bias: float = Field(3.0, ge=-5.0, le=10.0)
    """Initial bias of the update gates: higher keeps more of a layer's old state at the start of training."""
    covariance_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Weight, in the training loss, of the squared covariances between different layers."""

    @model_validator(mode="after")
    def _periods_are_countable(self) -> "HpmnMemory":
        if self.growth ** (self.num_layers - 1) > 2**24:
            raise ValueError(
                f"layer {self.num_layers - 1} would be updated every {self.growth}^{self.num_layers - 1} events, but "
                "events are counted up to 2^24: take fewer num_layers or a smaller growth"
            )
        return self


class MimnMemory(MachineSettings):
    """Multi-interest memory: evenly used NTM rows, and a recurrent unit over each (Pi et al. 2019)."""

    kind: Literal["mimn"] = "mimn"
    num_slots: int = Field(15, ge=1, le=256)
    """Number of memory rows per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a row, and of its recurrent unit's state."""
    controller_dim: int = Field(32, ge=1, le=1024)
    """Hidden size of the recurrent controller. A state has num_slots x (2 x slot_dim + 1) + controller_dim numbers:
    1,007 with 15, 32 and 32."""
    controller_reads: bool = False
    """Feed the vector read at the last event to the controller, as in the paper: slower, and slot_dim more numbers per
    user."""
    num_channels: int = Field(3, ge=1, le=256)
    """Number of rows whose recurrent units an event updates; at most num_slots."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """At the start of training, an event erases sigmoid(-keep_bias) of the rows it writes to: higher forgets less."""
    utilization_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Weight, in the training loss, of the penalty on writing to some rows more than to others."""

    @model_validator(mode="after")
    def _channels_are_rows(self) -> "MimnMemory":
        if self.num_channels > self.num_slots:
            raise ValueError(f"num_channels is {self.num_channels}, more than num_slots, which is {self.num_slots}")
        return self


class ExpireSpan(MachineSettings):
    """Events that expire after a learned span; those with the longest time left are kept (Expire-Span, ICML 2021)."""

    kind: Literal["expire_span"] = "expire_span"
    num_slots: int = Field(29, ge=1, le=4096)
    """Number of events kept: 29 x (32 + 1) numbers in float16, and ages and counts in float32, are 2,038 bytes."""
    max_span: int = Field(512, ge=1)
    """Longest span that an event can have, in events."""
    ramp: int = Field(128, ge=1)
    """Number of events over which an expired event fades out; only then does its span get a gradient from clicks."""
    span_bias: float = Field(-2.0, ge=-10.0, le=10.0)
    """At the start of training, spans are about max_span x sigmoid(span_bias) events."""
    span_weight: float = Field(1e-5, ge=0.0, le=1.0)
    """Weight, in the training loss, of the mean span: higher makes spans shorter."""


class SlotGruMemory(MachineSettings):
    """Slot-to-item attention and a gated update, after the text of Rehearsal Memory (ICML 2021)."""

    former_kinds: ClassVar[tuple[str, ...]] = ("rehearsal",)
    kind: Literal["slot_gru"] = "slot_gru"
    num_slots: int = Field(32, ge=1, le=1024)
    """Number of slots per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a slot's vector. A state has num_slots x slot_dim numbers: 32 x 32 are 2 KB in float16."""
    keep_bias: float = Field(1.0, ge=-5.0, le=5.0)
    """Initial bias of the update gate: higher keeps more of a slot's old content at the start of training."""


class LearnedQueries(MachineSettings):
    """Learned query tokens that attend to each segment's events and are carried over to the next segment."""

    kind: Literal["learned_queries"] = "learned_queries"
    num_slots: int = Field(32, ge=1, le=1024)
    """Number of query tokens per user."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """Size of a token's vector. A state has num_slots x slot_dim numbers: 32 x 32 are 2 KB in float16."""
    feedforward_dim: int = Field(64, ge=1)
    """Hidden size of the feed-forward layer."""
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """At the start of training, each segment leaves a token sigmoid(keep_bias) of its content: higher forgets less."""


MACHINE_SETTINGS: Final[tuple[type[MachineSettings], ...]] = (
    AssociativeMemory,
    MeanPool,
    CountSketch,
    RingBuffer,
    NtmMemory,
    DncMemory,
    RumMemory,
    TransformerXL,
    HpmnMemory,
    MimnMemory,
    ExpireSpan,
    SlotGruMemory,
    LearnedQueries,
    NoMachine,
)

if TYPE_CHECKING:
    Machine = MachineSettings
else:
    Machine = one_of(MachineSettings, *MACHINE_SETTINGS)
