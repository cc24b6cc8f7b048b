"""Settings of rehearsal, an auxiliary training loss on the memory."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rm_rec.config.base import Settings


class UniformSampler(Settings):
    """All fragments are equally likely."""

    kind: Literal["uniform"] = "uniform"


class LearntSampler(Settings):
    """Settings that teacher and student have in common."""

    uniform_share: float = Field(0.5, ge=0.0, le=1.0)
    """Fraction of the fragments that are drawn uniformly all the same, so that each has a chance to be rehearsed."""
    max_queries: int = Field(512, ge=1)
    """Largest number of impressions per batch that the teacher learns from."""


class TeacherSampler(LearntSampler):
    """Fragments that matter for clicks are more likely: by attention from targets to all fragments of the history."""

    kind: Literal["teacher"] = "teacher"


class StudentSampler(LearntSampler):
    """As `teacher`, but by a model that learns to predict the teacher's attention without seeing the targets."""

    kind: Literal["student"] = "student"


Sampler = Annotated[UniformSampler | TeacherSampler | StudentSampler, Field(discriminator="kind")]


class RehearsalConfig(Settings):
    """Settings of `RehearsalObjective`; a part of the loss with weight 0 is left out.

    >>> RehearsalConfig(familiarity_weight=0.1, sampler=TeacherSampler()).sampler.uniform_share
    0.5
    """

    recollection_weight: float = Field(0.2, ge=0.0, le=1000.0)
    """Weight, in the training loss, of picking each masked event out of candidates."""
    familiarity_weight: float = Field(0.0, ge=0.0, le=1000.0)
    """Weight, in the training loss, of telling true fragments from ones with another user's events mixed in."""
    fragments_per_user: int = Field(4, ge=1)
    """Number of fragments of each user, drawn anew at each training step."""
    fragment_length: int = Field(16, ge=2)
    """Number of events in a fragment."""
    mask_ratio: float = Field(0.5, gt=0.0, lt=1.0)
    """Fraction of a fragment's events that are masked."""
    replace_ratio: float = Field(0.5, gt=0.0, le=1.0)
    """Fraction of a mixed fragment's unmasked events that are replaced by another user's."""
    candidates: Literal["fragment", "batch", "sampled"] = "batch"
    """Negatives for a masked event: its fragment's other masked events, those of the batch, or sampled events."""
    num_candidates: int = Field(256, ge=1)
    """Largest number of negatives of kind batch or sampled: more make the task harder."""
    num_layers: int = Field(1, ge=1, le=8)
    """Number of transformer layers of the decoder."""
    num_heads: int = Field(4, ge=1)
    """Number of attention heads of the decoder; must divide token_dim."""
    warm_up_steps: int = Field(300, ge=0)
    """Number of training steps over which both weights rise from 0; with 0, clicks are learned far more slowly."""
    sampler: Sampler = UniformSampler()
    """How fragments are drawn."""

    @model_validator(mode="after")
    def _has_a_part(self) -> "RehearsalConfig":
        if not self.recollection_weight and not self.familiarity_weight:
            raise ValueError(
                "recollection_weight and familiarity_weight are both 0: set rehearsal to null to train without"
            )
        return self
