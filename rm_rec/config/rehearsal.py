"""Settings of rehearsal, the auxiliary loss of training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rm_rec.config.base import Settings


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
    """What `RehearsalObjective` is built from; a weight of 0 leaves a part out.

    >>> RehearsalConfig(familiarity_weight=0.1, sampler=TeacherSampler()).sampler.uniform_share
    0.5
    """

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
