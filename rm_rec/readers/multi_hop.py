"""Several attention hops over the slots: the query of each hop includes the results of the hops before.

Source: End-To-End Memory Networks (Sukhbaatar et al., NeurIPS 2015, sections 2.1 and 2.2). With a query q and slots i
of a memory, with keys x_i and values y_i (in the paper, one sentence is both), u^1 = B q, and hop k is

    p_i = softmax_i(u^k . A^k x_i)        o^k = sum_i p_i C^k y_i

    adjacent:    u^(k+1) = u^k + o^k,     A^(k+1) = C^k and B = A^1
    layer_wise:  u^(k+1) = H u^k + o^k,   A^1 = A^2 = ... and C^1 = C^2 = ...

Differences from the paper: logits are scaled and there is a null key (attention.py), so that the answer is defined
without a valid slot. The answer is r = u^(K+1) minus the query's own contribution to it (B q, or H^K B q): the click
head sees the target anyway, and r is zero if there is nothing to read. All matrices are initialised to the identity (in
the paper, randomly). Position encoding is left out since slots have no words; temporal encoding is up to the machine;
the paper's linear start, which trains without softmax at first, and its random noise in time indices are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.attention import attend, key_bias
from rm_rec.config.readers import MultiHopReader
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class MultiHop(Reader):
    """Reads a memory in several hops; without a valid slot the answer is zero."""

    config_type = MultiHopReader

    def __init__(self, config: MultiHopReader, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.num_hops, self.token_dim, self.slot_dim = config.num_hops, token_dim, slot_dim
        adjacent = config.tying == "adjacent"
        # Adjacent: matrix k is A of hop k and C of hop k - 1, so there is one more than hops. Layer-wise: A and C.
        self.embeddings = nn.ModuleList(
            nn.Linear(slot_dim, token_dim, bias=False) for _ in range(config.num_hops + 1 if adjacent else 2)
        )
        self.question = None if adjacent else nn.Linear(token_dim, token_dim, bias=False)
        self.step = None if adjacent else nn.Linear(token_dim, token_dim, bias=False)
        self.null_logit = nn.Parameter(torch.zeros(config.num_hops if adjacent else 1))
        for projection in self.modules():
            if isinstance(projection, nn.Linear):
                nn.init.eye_(projection.weight)

    @property
    def num_features(self) -> int:
        """Size of an answer: the vector that the hops added to the query, and the total weight of each hop's keys."""
        return self.token_dim + self.num_hops

    @property
    def attended(self) -> list[slice]:
        """The first features of an answer are the vector that the hops added."""
        return [slice(0, self.token_dim)]

    def input_embedding(self, hop: int) -> nn.Module:
        """Return matrix A of a hop, counted from 0."""
        return self.embeddings[hop if self.step is None else 0]

    def output_embedding(self, hop: int) -> nn.Module:
        """Return matrix C of a hop, counted from 0."""
        return self.embeddings[hop + 1 if self.step is None else 1]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; `recent` is not used."""
        query, added = self._embedded(queries), torch.zeros_like(queries)
        weights = []
        for hop in range(self.num_hops):
            null = self.null_logit[hop : hop + 1] if self.step is None else self.null_logit
            bias = key_bias(null, slots.valid, slots.log_weight)
            keys, values = self.input_embedding(hop)(slots.keys), self.output_embedding(hop)(slots.values)
            read = attend(query, keys, values, bias)
            if self.step is not None:
                query, added = self.step(query), self.step(added)
            query, added = query + read[..., :-1], added + read[..., :-1]
            weights.append(read[..., -1:])
        return torch.cat([added, *weights], dim=-1)

    def _embedded(self, queries: Tensor) -> Tensor:
        if self.question is not None:
            return torch.as_tensor(self.question(queries))
        # B = A^1; a query is padded with zeros for the further numbers that a slot may have.
        embedded: Tensor = self.embeddings[0](functional.pad(queries, (0, self.slot_dim - self.token_dim)))
        return embedded
