"""The decoder of rehearsal: a small transformer over a partly masked fragment, with attention to the memory's slots.

Suffixes: F fragment, B event of a fragment, D dim.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rm_rec.config.readers import AttentionReader
from rm_rec.encoder import TransformerBlock
from rm_rec.machines.base import Slots
from rm_rec.readers.attention import SlotAttention


class FragmentDecoder(nn.Module):
    """Transformer over [CLS] and a fragment's events, with attention to the memory's slots if there is a memory."""

    def __init__(self, token_dim: int, slot_dim: int | None, fragment_length: int, num_layers: int, num_heads: int):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(token_dim))
        self.mask = nn.Parameter(torch.zeros(token_dim))
        self.position = nn.Parameter(torch.zeros(fragment_length, token_dim))
        self.layers = nn.ModuleList(_DecoderLayer(token_dim, slot_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(token_dim)

    def forward(
        self,
        tokens: Float[Tensor, "fragment event dim"],
        masked: Bool[Tensor, "fragment event"],
        slots: Slots | None,
    ) -> tuple[Float[Tensor, "fragment dim"], Float[Tensor, "fragment event dim"]]:
        """Return the final hidden states of [CLS] and of each event."""
        x = torch.where(masked[..., None], self.mask, tokens) + self.position
        x = torch.cat([self.first.expand(len(x), 1, -1), x], dim=1)
        for layer in self.layers:
            x = layer(x, slots)
        x = self.norm(x)
        return x[:, 0], x[:, 1:]


class _DecoderLayer(nn.Module):
    def __init__(self, token_dim: int, slot_dim: int | None, num_heads: int) -> None:
        super().__init__()
        self.reader = None
        if slot_dim is not None:
            self.reader = SlotAttention(AttentionReader(num_heads=num_heads), token_dim, slot_dim)
            self.answer = nn.Linear(self.reader.num_features, token_dim)
            nn.init.eye_(self.answer.weight)
            nn.init.zeros_(self.answer.bias)
        self.block = TransformerBlock(token_dim, num_heads, 2 * token_dim)

    def forward(self, x: Tensor, slots: Slots | None) -> Tensor:
        if self.reader is not None and slots is not None:
            x = x + self.answer(self.reader(x, slots))
        out: Tensor = self.block(x)
        return out
