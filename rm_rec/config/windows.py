"""Settings of the window: which recent events are kept as they are, beside the state."""

from typing import Annotated, Literal

from pydantic import Field

from rm_rec.config.base import Settings


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
