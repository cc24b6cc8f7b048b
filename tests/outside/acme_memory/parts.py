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
    """A mean of the valid slots, by how well their keys fit."""

    scale: float = Field(1.0, gt=0.0)
    """What the mean is multiplied by."""
    num_heads: int = Field(1, ge=1)
    """Of no use here, but rm-rec holds it to dividing token_dim."""


class MeanReader(Reader):
    """Answers a query with the mean of the memory's valid slots, weighted by a softmax that may choose nothing."""

    config_type = MeanOfSlots

    def __init__(self, config: MeanOfSlots, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.scale = config.scale
        self.fit = nn.Linear(slot_dim, token_dim, bias=False)
        self.project = nn.Linear(slot_dim, token_dim, bias=False)

    @property
    def num_features(self) -> int:
        return self.project.out_features

    @property
    def attended(self) -> list[slice]:
        return [slice(0, self.num_features)]

    def forward(self, queries: Tensor, slots: Slots, recent: Tensor | None = None) -> Tensor:
        logits = queries @ self.fit(slots.keys).transpose(1, 2)
        if slots.log_weight is not None:
            logits = logits + slots.log_weight[:, None]
        logits = logits.masked_fill(~slots.valid[:, None], -torch.inf)
        weights = nn.functional.pad(logits, (0, 1)).softmax(dim=-1)[..., :-1]
        return self.scale * weights @ self.project(slots.values)


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
