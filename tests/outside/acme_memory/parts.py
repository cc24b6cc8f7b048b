"""A reader that averages the slots, and an encoder that scales events."""

import torch
from pydantic import Field
from torch import Tensor, nn

from rm_rec.config.encoders import EncoderSettings
from rm_rec.config.readers import ReaderSettings
from rm_rec.encoder import SegmentEncoder
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class MeanOfSlots(ReaderSettings):
    """The mean of the valid slots."""

    bias: bool = True
    num_heads: int = Field(1, ge=1)
    """Of no use here, but rm-rec holds it to dividing token_dim."""


class MeanReader(Reader):
    """Answers every query with the mean of the memory's valid slots."""

    config_type = MeanOfSlots

    def __init__(self, config: MeanOfSlots, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(slot_dim, token_dim, bias=config.bias)

    @property
    def num_features(self) -> int:
        return self.project.out_features

    @property
    def attended(self) -> list[slice]:
        return [slice(0, self.num_features)]

    def forward(self, queries: Tensor, slots: Slots, recent: Tensor | None = None) -> Tensor:
        total = slots.values.masked_fill(~slots.valid[..., None], 0.0).sum(dim=1)
        mean = total / slots.valid.sum(dim=1, keepdim=True).clamp(min=1)
        return self.project(mean)[:, None].expand(-1, queries.shape[1], -1)


class Scaled(EncoderSettings):
    """Each number of an event by a weight of its own."""

    start: float = Field(1.0, gt=0.0)


class ScaledEncoder(SegmentEncoder):
    """Scales events."""

    config_type = Scaled

    def __init__(self, config: Scaled, token_dim: int, segment_length: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((token_dim,), config.start))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return tokens * self.scale
