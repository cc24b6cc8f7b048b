"""Encoders, which transform the vectors of a segment's events before these are folded into the memory."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.encoders import EncoderSettings, NoEncoder, TransformerEncoder
from rm_rec.outside import load_outside, name_settings


class SegmentEncoder(nn.Module, ABC):
    """Base class of encoders: transforms the vectors of a segment's events before they are folded.

    It is built from its settings and the sizes of vectors and segments: `Encoder(config, token_dim, segment_length)`.

    >>> class Halved(SegmentEncoder):
    ...     def forward(self, tokens, valid):  # [..., event, dim], [..., event]
    ...         return tokens / 2
    >>> Halved()(torch.ones(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)).shape
    torch.Size([2, 4, 8])
    """

    config_type: type[EncoderSettings]  # the class of its settings

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name_settings(cls)

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "*rows event dim"], valid: Bool[Tensor, "*rows event"]
    ) -> Float[Tensor, "*rows event dim"]:
        """Encode each segment by itself; the values of padding must not change any event."""


class NullEncoder(SegmentEncoder):
    """Leaves events as they are."""

    config_type = NoEncoder

    def __init__(self, config: NoEncoder, token_dim: int, segment_length: int) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return the tokens unchanged."""
        return tokens


class SegmentTransformer(SegmentEncoder):
    """Pre-norm transformer within each segment, with learned positions.

    The output projections of each block are initialised to zero, so that training starts from the events as they are.
    With random projections the memory learned far more slowly than without an encoder.
    """

    config_type = TransformerEncoder

    def __init__(self, config: TransformerEncoder, token_dim: int, segment_length: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(segment_length, token_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(token_dim, config.num_heads, config.feedforward_dim) for _ in range(config.num_layers)
        )

    def forward(
        self, tokens: Float[Tensor, "*rows event dim"], valid: Bool[Tensor, "*rows event"]
    ) -> Float[Tensor, "*rows event dim"]:
        """Encode each segment; padding changes no event, and its own outputs are arbitrary."""
        x = tokens.flatten(0, -3) + self.position
        seen = valid.flatten(0, -2)
        # Padding attends to itself, so that an empty segment gives arbitrary finite values rather than NaN.
        itself = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        mask = (seen[:, None, :] | itself)[:, None]
        for block in self.blocks:
            x = block(x, mask)
        return x.view(tokens.shape)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a feed-forward layer, both initialised to add zero to their input."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 3 * dim)
        self.attended = nn.Linear(dim, dim)
        self.norm_feedforward = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, feedforward_dim)
        self.narrow = nn.Linear(feedforward_dim, dim)
        for last in (self.attended, self.narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, x: Float[Tensor, "row event dim"], mask: Bool[Tensor, "row 1 event event"] | None = None
    ) -> Float[Tensor, "row event dim"]:
        """Attend between the events of each row, where the mask is true."""
        rows, length, dim = x.shape
        heads = self.project(self.norm_attention(x)).view(rows, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.attended(mixed.transpose(1, 2).reshape(rows, length, dim))
        hidden: Tensor = self.narrow(functional.gelu(self.widen(self.norm_feedforward(x))))
        return x + hidden


ENCODERS: Final[dict[str, type[SegmentEncoder]]] = {"none": NullEncoder, "transformer": SegmentTransformer}


def build_encoder(
    config: EncoderSettings, token_dim: int, segment_length: int, allowed_packages: Collection[str] = ()
) -> SegmentEncoder:
    """Build the encoder that the config names; encoders of other packages as in `build_machine`."""
    if config.kind in ENCODERS:
        return ENCODERS[config.kind](config, token_dim, segment_length)
    encoder, settings = load_outside(config, SegmentEncoder, allowed_packages, "encoder")
    return encoder(settings, token_dim, segment_length)
