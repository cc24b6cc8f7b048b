"""Settings of the encoders, which transform the events of a segment before they are folded."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rm_rec.config.base import EncoderSettings as EncoderSettings
from rm_rec.config.outside import one_of


class NoEncoder(EncoderSettings):
    """No encoder: events are folded as they are."""

    kind: Literal["none"] = "none"


class TransformerEncoder(EncoderSettings):
    """A transformer: events of one segment attend to each other before they are folded."""

    kind: Literal["transformer"] = "transformer"
    num_layers: int = Field(1, ge=1, le=8)
    """Number of transformer layers."""
    num_heads: int = Field(2, ge=1)
    """Number of attention heads; must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)
    """Hidden size of the feed-forward layers."""


if TYPE_CHECKING:
    Encoder = EncoderSettings
else:
    Encoder = one_of(EncoderSettings, NoEncoder, TransformerEncoder)
