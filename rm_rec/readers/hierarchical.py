"""Several queries from the target and the recent events, and a second attention over their answers.

After ToMMY, in which several queries from the current trajectory read a memory of past events and a second attention
combines their answers; its equations were not available, only its description. With target x and recent events c:

    q_h = W_h [x; c]                                        h = 1, ..., the number of queries
    r_h = attention of q_h over the slots
    answer = attention of B x over r_1, r_2, ...

Our choices: both attentions have a null key (attention.py). c is the window attention's answer for the target, where
ToMMY has an LSTM: the window has the same recent events. Keys and values are projections of the slots, the same for all
queries. W_1 is initialised to select the target, W_2 the recent events, and the others the mean of both plus noise,
since equal queries would stay equal; everything else is initialised to the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.attention import NullAttention, attend, key_bias
from rm_rec.config.readers import HierarchicalReader
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class Hierarchical(Reader):
    """Reads a memory by several queries and attends to their answers; without a valid slot the answer is zero."""

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
        self._initialise_queries()

    @torch.no_grad()
    def _initialise_queries(self) -> None:
        identity = torch.eye(self.token_dim)
        for query, weight in enumerate(self.ask.weight.view(self.num_queries, self.token_dim, 2 * self.token_dim)):
            target_weight = (1.0, 0.0)[query] if query < 2 else 0.5
            weight.copy_(torch.cat([target_weight * identity, (1.0 - target_weight) * identity], dim=1))
            if query >= 2:
                weight.add_(torch.randn_like(weight), alpha=0.5 / self.token_dim**0.5)

    @property
    def num_features(self) -> int:
        """Size of an answer: the attended vector and its total weight, and the total weight of each query's keys."""
        return self.weigh.num_features + self.num_queries

    @property
    def attended(self) -> list[slice]:
        """The first features of an answer are the attended vector."""
        return [slice(0, self.token_dim)]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; without `recent`, the recent events count as zero."""
        num_blocks, num_queries, dim = queries.shape
        context = torch.zeros_like(queries) if recent is None else recent
        slot_queries = self.ask(torch.cat([queries, context], dim=-1)).view(num_blocks, -1, dim)
        bias = key_bias(self.null_logit, slots.valid, slots.log_weight)
        reads = attend(slot_queries, self.key(slots.keys), self.value(slots.values), bias)
        reads = reads.view(num_blocks * num_queries, self.num_queries, dim + 1)
        keys, values = self.weigh.project(reads[..., :-1])
        valid = slots.valid.any(dim=1).repeat_interleave(num_queries)[:, None].expand(-1, self.num_queries)
        answer = self.weigh(queries.reshape(-1, 1, dim), keys, values, self.weigh.bias(valid))
        return torch.cat([answer[:, 0], reads[..., -1]], dim=-1).view(num_blocks, num_queries, -1)
