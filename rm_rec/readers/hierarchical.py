"""Several questions at once, from the target and the recent trajectory; their answers are attended to again.

After ToMMY (a memory of past events read by several queries from the current trajectory, whose answers a second
attention weighs), as described: its equations could not be read. With target x and recent trajectory c:

    q_h = W_h [x; c]                                        h = 1, ..., the number of queries
    r_h = attention of q_h over the slots
    answer = attention of B x over r_1, r_2, ...

What was chosen: both attentions have a null key (attention.py). The trajectory c is what the window's attention
answered for the target, where the source runs an LSTM: the window holds the same recent events. Keys and values are the
slots', projected once for all queries. W_1 begins by asking for the target, W_2 for the trajectory, the others for the
mean of both with some noise, lest they stay alike; all else begins as the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.attention import NullAttention, attend, key_bias
from rm_rec.config.readers import HierarchicalReader
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class Hierarchical(Reader):
    """Reads a memory by several queries and weighs what they found; a memory with no valid slot answers zero."""

    config_type = HierarchicalReader

    def __init__(self, config: HierarchicalReader, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.num_queries, self.token_dim = config.num_queries, token_dim
        self.ask = nn.Linear(2 * token_dim, config.num_queries * token_dim, bias=False)
        self.key = nn.Linear(slot_dim, token_dim, bias=False)
        self.value = nn.Linear(slot_dim, token_dim, bias=False)
        self.null_logit = nn.Parameter(torch.zeros(1))
        self.weigh = NullAttention(token_dim, token_dim, token_dim, num_heads=1)
        for projection in (self.key, self.value):
            nn.init.eye_(projection.weight)
        self._begin_with_both()

    @torch.no_grad()
    def _begin_with_both(self) -> None:
        identity = torch.eye(self.token_dim)
        for query, weight in enumerate(self.ask.weight.view(self.num_queries, self.token_dim, 2 * self.token_dim)):
            of_target = (1.0, 0.0)[query] if query < 2 else 0.5
            weight.copy_(torch.cat([of_target * identity, (1.0 - of_target) * identity], dim=1))
            if query >= 2:
                weight.add_(torch.randn_like(weight), alpha=0.5 / self.token_dim**0.5)

    @property
    def num_features(self) -> int:
        """Size of an answer: what was found, its weight, and the weight of what each query found."""
        return self.weigh.num_features + self.num_queries

    @property
    def attended(self) -> list[slice]:
        """What was found comes first."""
        return [slice(0, self.token_dim)]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; with no recent trajectory it counts as zero."""
        num_blocks, num_queries, dim = queries.shape
        context = torch.zeros_like(queries) if recent is None else recent
        asked = self.ask(torch.cat([queries, context], dim=-1)).view(num_blocks, -1, dim)
        bias = key_bias(self.null_logit, slots.valid, slots.log_weight)
        found = attend(asked, self.key(slots.keys), self.value(slots.values), bias)
        found = found.view(num_blocks * num_queries, self.num_queries, dim + 1)
        keys, values = self.weigh.project(found[..., :-1])
        there = slots.valid.any(dim=1).repeat_interleave(num_queries)[:, None].expand(-1, self.num_queries)
        answer = self.weigh(queries.reshape(-1, 1, dim), keys, values, self.weigh.bias(there))
        return torch.cat([answer[:, 0], found[..., -1]], dim=-1).view(num_blocks, num_queries, -1)
