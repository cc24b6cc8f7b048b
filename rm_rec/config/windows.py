"""Settings of the window: which recent events are kept as raw events, beside the state."""

from typing import Annotated, Literal

from pydantic import Field

from rm_rec.config.base import Settings


class RecentSegments(Settings):
    """The last full segments, and the events after them that do not fill a segment yet."""

    kind: Literal["segments"] = "segments"
    num_segments: int = Field(1, ge=0, le=64)
    """Number of full segments in the window."""
    num_heads: int = Field(2, ge=1)
    """Number of attention heads over the window; must divide token_dim."""


class LastEvents(Settings):
    """A fixed number of last events (DIN-50 is this with 50 events and no memory machine)."""

    kind: Literal["last_events"] = "last_events"
    num_events: int = Field(50, ge=1, le=2048)
    """Number of events in the window."""
    num_heads: int = Field(2, ge=1)
    """Number of attention heads over the window; must divide token_dim."""


class WholeHistory(Settings):
    """All events of the history (DIN-full is this with no memory machine): memory use grows with the history."""

    kind: Literal["whole_history"] = "whole_history"
    num_heads: int = Field(2, ge=1)
    """Number of attention heads over the window; must divide token_dim."""


Window = Annotated[RecentSegments | LastEvents | WholeHistory, Field(discriminator="kind")]
