"""Settings of the encoders: what events of a segment tell each other before they are folded."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rm_rec.config.base import EncoderSettings as EncoderSettings
from rm_rec.config.outside import one_of


class NoEncoder(EncoderSettings):
    """Events are folded as they are."""

    kind: Literal["none"] = "none"


class TransformerEncoder(EncoderSettings):
    """Events of one segment see each other before they are folded."""

    kind: Literal["transformer"] = "transformer"
    num_layers: int = Field(1, ge=1, le=8)
    num_heads: int = Field(2, ge=1)
    """Must divide token_dim."""
    feedforward_dim: int = Field(64, ge=1)


if TYPE_CHECKING:
    Encoder = EncoderSettings
else:
    Encoder = one_of(EncoderSettings, NoEncoder, TransformerEncoder)
