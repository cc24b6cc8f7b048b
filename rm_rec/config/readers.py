"""Settings of the readers, one class for each file of rm_rec/readers."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rm_rec.config.base import ReaderSettings as ReaderSettings
from rm_rec.config.outside import one_of


class AttentionReader(ReaderSettings):
    """The target attends to the slots."""

    kind: Literal["attention"] = "attention"
    num_heads: int = Field(1, ge=1)
    """Must divide token_dim."""


class MultiHopReader(ReaderSettings):
    """Several reads, each asking with what those before have found (MemN2N, NeurIPS 2015)."""

    kind: Literal["multi_hop"] = "multi_hop"
    num_hops: int = Field(3, ge=1, le=8)
    tying: Literal["adjacent", "layer_wise"] = "adjacent"
    """Which weights hops share: each one's output with the next one's input, or all with all, like a recurrent net."""


class SupportingFactsReader(ReaderSettings):
    """Each hop picks the one slot that supports the answer best (MemNN, ICLR 2015), taught by weak labels."""

    kind: Literal["supporting_facts"] = "supporting_facts"
    num_hops: int = Field(2, ge=1, le=8)
    margin: float = Field(0.1, gt=0.0, le=10.0)
    """By how much the slot that supports should outscore the others."""
    support_weight: float = Field(0.1, ge=0.0, le=1000.0)
    """Of the hinge loss, beside the click loss; its labels are weak: the slots most like what was clicked."""


class HierarchicalReader(ReaderSettings):
    """Several queries from the target and the recent trajectory, whose answers are attended to again (ToMMY)."""

    kind: Literal["hierarchical"] = "hierarchical"
    num_queries: int = Field(4, ge=1, le=64)


if TYPE_CHECKING:
    Reader = ReaderSettings
else:
    Reader = one_of(ReaderSettings, AttentionReader, MultiHopReader, SupportingFactsReader, HierarchicalReader)
