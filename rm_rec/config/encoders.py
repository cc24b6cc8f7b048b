"""Settings of the encoders: what events of a segment tell each other before they are folded."""

from typing import Annotated, Literal

from pydantic import Field

from rm_rec.config.base import EncoderSettings as EncoderSettings


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


Encoder = Annotated[NoEncoder | TransformerEncoder, Field(discriminator="kind")]
