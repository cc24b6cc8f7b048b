"""Settings of the memory machines, one class for each file of rm_rec/machines."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from rm_rec.config.base import MachineSettings as MachineSettings
from rm_rec.config.outside import one_of


class NoMachine(MachineSettings):
    """No memory: the window is all that the click head sees of a history (the baselines)."""

    kind: Literal["none"] = "none"


class AssociativeMemory(MachineSettings):
    """Slots that compete for each event and add up what they win."""

    kind: Literal["associative"] = "associative"
    num_slots: int = Field(31, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 1) numbers a user: 31 x 33 are 2,046 bytes in float16."""
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """A slot keeps sigmoid(keep_bias) of what it holds at each segment, at the start of training."""


class MeanPool(MachineSettings):
    """The mean of all events ever folded: the floor that a memory has to beat."""

    kind: Literal["mean_pool"] = "mean_pool"


class CountSketch(MachineSettings):
    """Fading counts in hashed buckets, without a network: the honest baseline for repeat behaviour."""

    kind: Literal["count_sketch"] = "count_sketch"
    num_buckets: int = Field(256, ge=1, le=4096)
    """256 counts are 1 KB: in float32, for in float16 a count in the thousands stands still."""
    sharpness: float = Field(32.0, gt=0.0, le=1000.0)
    """How far an event's count goes to the one bucket whose direction is nearest."""
    half_life: float = Field(1000.0, gt=0.0)
    """Events after which one counts half."""
    seed: int = Field(0, ge=0)
    """Of the buckets' directions."""


class RingBuffer(MachineSettings):
    """The last events as they are (what MemNN, MemN2N and ToMMY read)."""

    kind: Literal["ring_buffer"] = "ring_buffer"
    num_slots: int = Field(31, ge=1, le=4096)
    """Events kept: 31 x 32 numbers and a count are 1,988 bytes in float16."""


class NtmMemory(MachineSettings):
    """A Neural Turing Machine's rows: content and location addressing, erase and add (Graves et al. 2014)."""

    kind: Literal["ntm"] = "ntm"
    num_slots: int = Field(31, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 1) numbers a user (+ 2 if controller_reads): 31 x 33 are 2,046 bytes in float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: half the speed, and no gain in clicks was seen."""
    shift_range: int = Field(1, ge=0, le=16)
    """How many rows a head can move by at an event, either way."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class DncMemory(MachineSettings):
    """A Differentiable Neural Computer's rows: content and free rows, temporal links (Graves et al. 2016)."""

    kind: Literal["dnc"] = "dnc"
    num_slots: int = Field(29, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 2 + read_heads) numbers a user: 29 x 35 are 2,030 bytes in float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: slower."""
    read_heads: int = Field(1, ge=1, le=8)
    temporal_links: bool = False
    """Which row was written after which; num_slots x (num_slots + 1) numbers a user more."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class RumMemory(MachineSettings):
    """Feature-level user memory: rows under keys that all users share, by erase and add (Chen et al. 2018)."""

    kind: Literal["rum"] = "rum"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    sharpness: float = Field(4.0, gt=0.0, le=100.0)
    """How much an event prefers the features that it fits best (beta; 1 is plain scaled attention)."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class TransformerXL(MachineSettings):
    """A cache of the last hidden states of each layer (Transformer-XL, ACL 2019)."""

    kind: Literal["transformer_xl"] = "transformer_xl"
    cache_length: int = Field(15, ge=1, le=4096)
    """Events kept, at each of num_layers + 1 levels: 2 x 15 x 32 numbers and a count are 1,924 bytes in float16."""
    num_layers: int = Field(1, ge=1, le=8)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)


class HpmnMemory(MachineSettings):
    """Stacked recurrent units of growing periods (Ren et al. 2019)."""

    kind: Literal["hpmn"] = "hpmn"
    num_layers: int = Field(10, ge=1, le=24)
    """Layer j moves at every growth^j-th event."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_layers x slot_dim numbers and a count: 10 x 32 are 644 bytes with float16 rows."""
    growth: int = Field(2, ge=2, le=64)
    keep_bias: float = Field(3.0, ge=-5.0, le=10.0)
    """Added to the update gates: how much a layer prefers, at the start of training, what it holds to what is new."""
    covariance_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Of the squared covariances of different layers, beside the click loss."""

    @model_validator(mode="after")
    def _periods_are_countable(self) -> "HpmnMemory":
        if self.growth ** (self.num_layers - 1) > 2**24:
            raise ValueError(
                f"layer {self.num_layers - 1} would move every {self.growth}^{self.num_layers - 1} events; events are "
                "counted up to 2^24: take fewer num_layers or a smaller growth"
            )
        return self


class MimnMemory(MachineSettings):
    """A memory of many interests: NTM rows, evenly used, and a recurrent unit over each (Pi et al. 2019)."""

    kind: Literal["mimn"] = "mimn"
    num_slots: int = Field(15, ge=1, le=256)
    slot_dim: int = Field(32, ge=1, le=1024)
    controller_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (2 x slot_dim + 1) + controller_dim numbers a user: with 15, 32, 32 they are 1,007."""
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: slower, and slot_dim numbers a user more."""
    num_channels: int = Field(3, ge=1, le=256)
    """How many rows' units an event moves; at most num_slots."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""
    utilization_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Of the unevenness with which rows are written to, beside the click loss."""

    @model_validator(mode="after")
    def _channels_are_rows(self) -> "MimnMemory":
        if self.num_channels > self.num_slots:
            raise ValueError(f"num_channels is {self.num_channels}, more than num_slots, which is {self.num_slots}")
        return self


class ExpireSpan(MachineSettings):
    """Events with learned spans of life; those with most left are kept (Expire-Span, ICML 2021)."""

    kind: Literal["expire_span"] = "expire_span"
    num_slots: int = Field(29, ge=1, le=4096)
    """Events kept: 29 x (32 + 1) numbers, and ages and counts in float32, are 2,038 bytes in float16."""
    max_span: int = Field(512, ge=1)
    """The longest span that an event can have, in events."""
    ramp: int = Field(128, ge=1)
    """Events over which one expires; only there does its span learn from clicks."""
    span_bias: float = Field(-2.0, ge=-10.0, le=10.0)
    """Spans are about max_span x sigmoid(span_bias) at the start of training."""
    span_weight: float = Field(1e-5, ge=0.0, le=1.0)
    """Of the mean span, beside the click loss: how short memory should be."""


class SlotGruMemory(MachineSettings):
    """Slot-to-item attention and a gated update (Rehearsal Memory, ICML 2021, as described)."""

    former_kinds: ClassVar[tuple[str, ...]] = ("rehearsal",)
    kind: Literal["slot_gru"] = "slot_gru"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    keep_bias: float = Field(1.0, ge=-5.0, le=5.0)
    """Added to the update gate: how much a slot prefers, at the start of training, what it holds to what is new."""


class LearnedQueries(MachineSettings):
    """Learned query tokens that compress segment after segment by attention, and carry over."""

    kind: Literal["learned_queries"] = "learned_queries"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    feedforward_dim: int = Field(64, ge=1)
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """A token keeps sigmoid(keep_bias) of what it has gathered at each segment, at the start of training."""


if TYPE_CHECKING:
    Machine = MachineSettings
else:
    Machine = one_of(
        MachineSettings,
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
