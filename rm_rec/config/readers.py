"""Settings of the readers, one class for each file in rm_rec/readers."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rm_rec.config.base import ReaderSettings as ReaderSettings
from rm_rec.config.outside import one_of


class AttentionReader(ReaderSettings):
    """Attention from the target to the slots."""

    kind: Literal["attention"] = "attention"
    num_heads: int = Field(1, ge=1)
    """Number of attention heads; must divide token_dim."""


class MultiHopReader(ReaderSettings):
    """Several attention hops; each hop's query includes the results of the hops before (MemN2N, NeurIPS 2015)."""

    kind: Literal["multi_hop"] = "multi_hop"
    num_hops: int = Field(3, ge=1, le=8)
    """Number of hops."""
    tying: Literal["adjacent", "layer_wise"] = "adjacent"
    """Weights that hops share: `adjacent`, a hop's output weights are the next hop's input weights; `layer_wise`, all
    hops have the same weights, as in a recurrent network."""


class SupportingFactsReader(ReaderSettings):
    """Each hop selects the one slot that best supports the answer (MemNN, ICLR 2015), trained with weak labels."""

    kind: Literal["supporting_facts"] = "supporting_facts"
    num_hops: int = Field(2, ge=1, le=8)
    """Number of hops."""
    margin: float = Field(0.1, gt=0.0, le=10.0)
    """Margin of the hinge loss: how far the supporting slot's score should be above the other slots' scores."""
    support_weight: float = Field(0.1, ge=0.0, le=1000.0)
    """Weight of the hinge loss in the training loss. Its labels are weak: the slots most similar to the clicked target
    count as the supporting ones."""


class HierarchicalReader(ReaderSettings):
    """Several queries, from the target and the recent events; attention over their answers gives one answer (ToMMY)."""

    kind: Literal["hierarchical"] = "hierarchical"
    num_queries: int = Field(4, ge=1, le=64)
    """Number of queries per target."""


if TYPE_CHECKING:
    Reader = ReaderSettings
else:
    Reader = one_of(ReaderSettings, AttentionReader, MultiHopReader, SupportingFactsReader, HierarchicalReader)
