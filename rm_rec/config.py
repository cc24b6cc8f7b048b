"""What a model is: frozen settings, and the sizes that the data gave. Both are JSON, kept beside the weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rm_rec.machine_config import DncMemory, HpmnMemory, MimnMemory, NtmMemory, RumMemory
from rm_rec.reader_config import AttentionReader, Reader
from rm_rec.settings import Settings


class NoEncoder(Settings):
    """Events are folded as they are."""

    kind: Literal["none"] = "none"


class TransformerEncoder(Settings):
    """Events of one segment see each other before they are folded."""

    kind: Literal["transformer"] = "transformer"
    num_layers: int = Field(1, ge=1, le=8)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)


class NoMachine(Settings):
    """No memory: the window is all that the click head sees of a history (the baselines)."""

    kind: Literal["none"] = "none"


class MeanPool(Settings):
    """The mean of all events ever folded: the floor that a memory has to beat."""

    kind: Literal["mean_pool"] = "mean_pool"


class RehearsalMemory(Settings):
    """Slot-to-item attention and a gated update (Rehearsal Memory, ICML 2021, as described)."""

    kind: Literal["rehearsal"] = "rehearsal"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    keep_bias: float = Field(1.0, ge=-5.0, le=5.0)
    """Added to the update gate: how much a slot prefers, at the start of training, what it holds to what is new."""


class AssociativeMemory(Settings):
    """Slots that compete for each event and add up what they win."""

    kind: Literal["associative"] = "associative"
    num_slots: int = Field(31, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 1) numbers a user: 31 x 33 are 2,046 bytes in float16."""
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """A slot keeps sigmoid(keep_bias) of what it holds at each segment, at the start of training."""


class RingBuffer(Settings):
    """The last events as they are (what MemNN, MemN2N and ToMMY read)."""

    kind: Literal["ring_buffer"] = "ring_buffer"
    num_slots: int = Field(31, ge=1, le=4096)
    """Events kept: 31 x 32 numbers and a count are 1,988 bytes in float16."""


class TransformerXL(Settings):
    """A cache of the last hidden states of each layer (Transformer-XL, ACL 2019)."""

    kind: Literal["transformer_xl"] = "transformer_xl"
    cache_length: int = Field(15, ge=1, le=4096)
    """Events kept, at each of num_layers + 1 levels: 2 x 15 x 32 numbers and a count are 1,924 bytes in float16."""
    num_layers: int = Field(1, ge=1, le=8)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)


class ExpireSpan(Settings):
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


class CountSketch(Settings):
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


class LearnedQueries(Settings):
    """Learned query tokens that compress segment after segment by attention, and carry over."""

    kind: Literal["learned_queries"] = "learned_queries"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    feedforward_dim: int = Field(64, ge=1)
    keep_bias: float = Field(4.0, ge=-5.0, le=10.0)
    """A token keeps sigmoid(keep_bias) of what it has gathered at each segment, at the start of training."""


Encoder = Annotated[NoEncoder | TransformerEncoder, Field(discriminator="kind")]
Machine = Annotated[
    AssociativeMemory
    | RehearsalMemory
    | HpmnMemory
    | RumMemory
    | NtmMemory
    | DncMemory
    | MimnMemory
    | RingBuffer
    | TransformerXL
    | LearnedQueries
    | MeanPool
    | ExpireSpan
    | CountSketch
    | NoMachine,
    Field(discriminator="kind"),
]


class RecentSegments(Settings):
    """The tail and the last full segments: what is kept as raw events beside the state."""

    kind: Literal["segments"] = "segments"
    num_segments: int = Field(1, ge=0, le=64)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""


class LastEvents(Settings):
    """Exactly the last events (DIN-50 is this with 50 events and no memory machine)."""

    kind: Literal["last_events"] = "last_events"
    num_events: int = Field(50, ge=1, le=2048)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""


class WholeHistory(Settings):
    """The whole raw history (DIN-full is this with no memory machine): memory grows with the history's length."""

    kind: Literal["whole_history"] = "whole_history"
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""


Window = Annotated[RecentSegments | LastEvents | WholeHistory, Field(discriminator="kind")]


class ClickHead(Settings):
    """The network from a target and what memory and window answered to the logit of a click."""

    hidden_dims: tuple[int, ...] = (64, 32)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class MemoryConfig(Settings):
    """What `UserMemory` is built from."""

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

    @model_validator(mode="after")
    def _heads_divide(self) -> "MemoryConfig":
        for name in ("encoder", "machine", "reader", "window"):
            heads = getattr(getattr(self, name), "num_heads", 1)
            if self.token_dim % heads:
                raise ValueError(f"{name}.num_heads is {heads}, which does not divide token_dim {self.token_dim}")
        return self


class ModelConfig(MemoryConfig):
    """What `ClickModel` is built from, but for the features."""

    embedding_std: float = Field(0.3, gt=0.0, le=1.0)
    """Spread of the embeddings before training."""
    token_dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Share of the numbers of events' and targets' vectors that training sets to 0, lest it learn them by heart."""
    head: ClickHead = ClickHead()


class UniformSampler(Settings):
    """Every fragment is as likely."""

    kind: Literal["uniform"] = "uniform"


class LearntSampler(Settings):
    """What teacher and student have in common."""

    uniform_share: float = Field(0.5, ge=0.0, le=1.0)
    """Share of the fragments that are drawn uniformly all the same, so that none is never rehearsed."""
    max_queries: int = Field(512, ge=1)
    """The teacher learns from at most this many impressions of a batch."""


class TeacherSampler(LearntSampler):
    """Fragments that matter to clicks are likelier: attention from targets to the fragments of the whole history."""

    kind: Literal["teacher"] = "teacher"


class StudentSampler(LearntSampler):
    """Fragments that look as if they would matter: the teacher's attention, learnt without its queries."""

    kind: Literal["student"] = "student"


Sampler = Annotated[UniformSampler | TeacherSampler | StudentSampler, Field(discriminator="kind")]


class RehearsalConfig(Settings):
    """What `RehearsalObjective` is built from; a weight of 0 leaves a part out."""

    recollection_weight: float = Field(0.2, ge=0.0, le=1000.0)
    """Of the loss of picking masked events out from candidates, beside the click loss."""
    familiarity_weight: float = Field(0.0, ge=0.0, le=1000.0)
    """Of the loss of telling true fragments from mixed ones, beside the click loss."""
    fragments_per_user: int = Field(4, ge=1)
    """Drawn anew at each step."""
    fragment_length: int = Field(16, ge=2)
    """Events of a fragment."""
    mask_ratio: float = Field(0.5, gt=0.0, lt=1.0)
    """Share of a fragment's events that are masked."""
    replace_ratio: float = Field(0.5, gt=0.0, le=1.0)
    """Share of a false fragment's unmasked events that are another user's."""
    candidates: Literal["fragment", "batch", "sampled"] = "batch"
    """What a masked event is picked out from: its fragment's other masked events, the batch's, or sampled events."""
    num_candidates: int = Field(256, ge=1)
    """At most this many wrong candidates (of the batch, or sampled)."""
    num_layers: int = Field(1, ge=1, le=8)
    """Of the decoder."""
    num_heads: int = Field(4, ge=1)
    """Of the decoder; must divide token_dim."""
    warm_up_steps: int = Field(300, ge=0)
    """Steps over which the weights rise from 0: at full weight from the start, clicks are learnt far slower."""
    sampler: Sampler = UniformSampler()

    @model_validator(mode="after")
    def _has_a_part(self) -> "RehearsalConfig":
        if not self.recollection_weight and not self.familiarity_weight:
            raise ValueError("recollection_weight and familiarity_weight are both 0: to train without, set it to null")
        return self


class FeatureSpace(Settings):
    """The features that the data has, and the rows of each one's embedding table; events and targets share tables."""

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
