"""The case that a reader is checked with: its settings, the size of slots, and drawn queries and memories."""

from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor

from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader
from rm_rec.testing.contract import described, draw_weights

TOKEN_DIM, BLOCKS, QUERIES, SLOTS = 8, 5, 3, 12
SLOT_PARTS = ("keys", "values", "valid", "log_weight")
SLOT_DIMS = (TOKEN_DIM, TOKEN_DIM - 2, TOKEN_DIM + 1)
EMPTY, LONELY = 3, 4  # indices of the blocks whose memories have no valid slot, and only one


@dataclass(frozen=True)
class ReaderCase:
    """A reader with its settings (by default its own defaults), for slots of size `slot_dim`."""

    reader: type[Reader]
    config: BaseModel | None = None
    slot_dim: int = TOKEN_DIM

    def __str__(self) -> str:
        return f"{self.reader.__name__}{described(self.settings)} of slots of {self.slot_dim} numbers"

    @property
    def settings(self) -> BaseModel:
        """Settings that the reader is built from."""
        return self.config if self.config is not None else self.reader.config_type.model_validate({})

    def build(self, seed: int = 0) -> Reader:
        """Build the reader, with weights drawn at random."""
        return draw_weights(self.reader(self.settings, TOKEN_DIM, self.slot_dim), seed, spread=0.5).eval()

    def asked(self) -> "Asked":
        """Draw queries and memories."""
        generator = torch.Generator().manual_seed(0)
        keys, values = torch.randn(2, BLOCKS, SLOTS, self.slot_dim, generator=generator).unbind(0)
        queries, recent = torch.randn(2, BLOCKS, QUERIES, TOKEN_DIM, generator=generator).unbind(0)
        valid = torch.ones(BLOCKS, SLOTS, dtype=torch.bool)
        valid[1, [0, 5]] = valid[2, 3] = False
        valid[EMPTY:] = False
        valid[LONELY, 2] = True
        return Asked(queries, Slots(keys, values, valid, torch.randn(BLOCKS, SLOTS, generator=generator)), recent)


@dataclass(frozen=True)
class Asked:
    """The inputs of a reader: queries, slots, and the window's answers to the queries."""

    queries: Tensor
    slots: Slots
    recent: Tensor | None

    def of(self, reader: Reader) -> dict[str, Tensor]:
        """Return a reader's answers to these inputs."""
        return {"answer": reader(self.queries, self.slots, self.recent)}

    def blocks(self, rows: slice | Tensor) -> "Asked":
        """Return the inputs of some blocks."""
        keys, values, valid, weight = (self.tensors()[name][rows] for name in SLOT_PARTS)
        recent = None if self.recent is None else self.recent[rows]
        return Asked(self.queries[rows], Slots(keys, values, valid, weight), recent)

    def tensors(self) -> dict[str, Tensor]:
        """Return all input tensors by name."""
        weight, recent = self.slots.log_weight, self.recent
        assert weight is not None
        assert recent is not None
        return {
            "queries": self.queries,
            "recent": recent,
            "keys": self.slots.keys,
            "values": self.slots.values,
            "valid": self.slots.valid,
            "log_weight": weight,
        }
