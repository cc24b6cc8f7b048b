"""Attention from the target to the slots of its user's memory."""

from jaxtyping import Float
from torch import Tensor

from rm_rec.attention import NullAttention
from rm_rec.config.readers import AttentionReader
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class SlotAttention(Reader):
    """Multi-head attention from queries to slots; without a valid slot the answer is zero."""

    config_type = AttentionReader

    def __init__(self, config: AttentionReader, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.attention = NullAttention(token_dim, slot_dim, token_dim, config.num_heads)

    @property
    def num_features(self) -> int:
        """Size of an answer."""
        return self.attention.num_features

    @property
    def attended(self) -> list[slice]:
        """The first features of an answer are the attended values."""
        return [slice(0, self.attention.value.out_features)]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; `recent` is not used."""
        keys, values = self.attention.key(slots.keys), self.attention.value(slots.values)
        answer: Tensor = self.attention(queries, keys, values, self.attention.bias(slots.valid, slots.log_weight))
        return answer
