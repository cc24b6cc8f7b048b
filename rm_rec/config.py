"""What a model is: frozen settings, and the sizes that the data gave. Both are JSON, kept beside the weights."""

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from rm_rec.machines import MACHINES
from rm_rec.machines.associative import AssociativeMemory
from rm_rec.machines.base import MachineSettings, NoMachine
from rm_rec.readers import READERS
from rm_rec.readers.attention import AttentionReader
from rm_rec.readers.base import ReaderSettings
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


Encoder = Annotated[NoEncoder | TransformerEncoder, Field(discriminator="kind")]


def _one_of(members: Iterable[type[Settings]]) -> Any:
    """Return the type of a block that is one of several, told apart by `kind`."""
    return Annotated[reduce(or_, members), Field(discriminator="kind")]


if TYPE_CHECKING:  # which settings there are is known when the tables are; a type checker sees what they have in common
    Machine = MachineSettings
    Reader = ReaderSettings
else:
    Machine = _one_of([*(machine.config_type for machine in MACHINES.values()), NoMachine])
    Reader = _one_of(reader.config_type for reader in READERS.values())


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
