"""Hard choices: each hop picks the one slot that supports the answer best, given those picked before.

Source: Memory Networks (Weston et al., ICLR 2015, sections 3.1 and 3.3): with a question x and memories m_i,

    o_1 = argmax_i s([x], m_i),   o_2 = argmax_i s([x, m_o1], m_i), ...      s(x, y) = Phi_x(x)^T U^T U Phi_y(y)
    loss = sum over hops and slots i that do not support: max(0, margin - s(.., m_support) + s(.., m_i))

Phi gives what is asked, what was found and what is looked for features of their own, so U Phi is three matrices here:
s([x, m_o1], m_i) = (U_x x + U_m m_o1) . U_y m_i / sqrt(D), scaled as all attention is here. They begin as the identity.
What differs: no slot is picked twice for one query (from the identity each would pick itself again); the hinge is the
mean over the other slots, not their sum, so that its weight does not depend on their number; and what the paper's
response module is, is here the click head, which sees each picked slot's value and score. The picked score, and so U,
also learns from clicks.

**Weak labels.** The paper is told which facts support an answer. A click log is not: `weak_support` takes the slots
most like a clicked target, by cosine, for its support. Nobody says that these decided the click.
Suffixes: B block, Q query of a block, K slot, D dim, H hop.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.readers import SupportingFactsReader
from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader


class SupportingFacts(Reader):
    """Picks one slot a hop; a memory with no slot left to pick answers zero."""

    config_type = SupportingFactsReader
    needs_labels = True

    def __init__(self, config: SupportingFactsReader, token_dim: int, slot_dim: int) -> None:
        super().__init__()
        self.config, self.token_dim = config, token_dim
        self.asked = nn.Linear(token_dim, token_dim, bias=False)
        self.found = nn.Linear(slot_dim, token_dim, bias=False)
        self.looked_for = nn.Linear(slot_dim, token_dim, bias=False)
        self.value = nn.Linear(slot_dim, token_dim, bias=False)
        for projection in (self.asked, self.found, self.looked_for, self.value):
            nn.init.eye_(projection.weight)

    @property
    def num_features(self) -> int:
        """Size of an answer: each hop's picked value, then each hop's score."""
        return self.config.num_hops * (self.token_dim + 1)

    @property
    def attended(self) -> list[slice]:
        """The picked values come first."""
        starts = range(0, self.config.num_hops * self.token_dim, self.token_dim)
        return [slice(start, start + self.token_dim) for start in starts]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; what is recent is the window's alone."""
        found_BKD, looked_for_BKD, value_BKD = self._project(slots)
        asked_BQD = self.asked(queries)
        left_BQK = slots.valid[:, None].expand(-1, queries.shape[1], -1)
        values, scores = [], []
        for _ in range(self.config.num_hops):
            score_BQK = _scores(asked_BQD, looked_for_BKD, slots)
            picked_BQ = score_BQK.masked_fill(~left_BQK, -math.inf).argmax(dim=-1)
            there_BQ1 = left_BQK.gather(2, picked_BQ[..., None])
            values.append(_at(value_BKD, picked_BQ).masked_fill(~there_BQ1, 0.0))
            scores.append(score_BQK.gather(2, picked_BQ[..., None]).masked_fill(~there_BQ1, 0.0))
            asked_BQD = asked_BQD + _at(found_BKD, picked_BQ)
            left_BQK = left_BQK.scatter(2, picked_BQ[..., None], False)
        return torch.cat([*values, *scores], dim=-1)

    def support_loss(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        support: Int[Tensor, "block query hop"],
        known: Bool[Tensor, "block query hop"],
    ) -> Float[Tensor, "block query"]:
        """Return each query's hinge loss, summed over hops: a slot that supports outscores the others by the margin.

        `support` names a slot for each hop; hops that are not `known` cost nothing. As in the paper each hop is asked
        with the true support of those before it.
        """
        found_BKD, looked_for_BKD, _ = self._project(slots)
        asked_BQD = self.asked(queries)
        left_BQK = slots.valid[:, None].expand(-1, queries.shape[1], -1)
        loss_BQ = torch.zeros_like(queries[..., 0])
        for support_BQ, known_BQ in zip(support.unbind(2), known.unbind(2), strict=True):
            score_BQK = _scores(asked_BQD, looked_for_BKD, slots)
            wanted_BQ1 = score_BQK.gather(2, support_BQ[..., None])
            left_BQK = left_BQK.scatter(2, support_BQ[..., None], False)
            short_BQK = (self.config.margin - wanted_BQ1 + score_BQK).clamp(min=0.0).masked_fill(~left_BQK, 0.0)
            hinge_BQ = short_BQK.sum(dim=2) / left_BQK.sum(dim=2).clamp(min=1)
            loss_BQ = loss_BQ + hinge_BQ.masked_fill(~known_BQ, 0.0)
            asked_BQD = asked_BQD + _at(found_BKD, support_BQ)
        return loss_BQ

    def penalty(
        self, queries: Float[Tensor, "block query dim"], slots: Slots, clicked: Bool[Tensor, "block query"]
    ) -> Float[Tensor, "block query"]:
        """Return the weighted hinge loss of clicked queries on their weak support; the others have none."""
        support, known = weak_support(queries, slots, self.config.num_hops)
        return self.config.support_weight * self.support_loss(queries, slots, support, known & clicked[..., None])

    def _project(self, slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
        return self.found(slots.keys), self.looked_for(slots.keys), self.value(slots.values)


@torch.no_grad()
def weak_support(
    queries: Float[Tensor, "block query dim"], slots: Slots, num_hops: int
) -> tuple[Int[Tensor, "block query hop"], Bool[Tensor, "block query hop"]]:
    """Name the slots most like each query, the likest first: a guess at what supports a click, and no more.

    Likeness is the cosine of the query and the slot's value, over the numbers that both have. Returns the slots, and
    where there is one at all.
    """
    shared = min(queries.shape[2], slots.values.shape[2])
    values_BKD = functional.normalize(slots.values[..., :shared], dim=-1)
    alike_BQK = functional.normalize(queries[..., :shared], dim=-1) @ values_BKD.transpose(1, 2)
    alike_BQK = alike_BQK.masked_fill(~slots.valid[:, None], -math.inf)
    best = alike_BQK.topk(min(num_hops, alike_BQK.shape[2]), dim=-1)
    return best.indices, best.values > -math.inf


def _scores(asked_BQD: Tensor, looked_for_BKD: Tensor, slots: Slots) -> Tensor:
    score_BQK = asked_BQD @ looked_for_BKD.transpose(1, 2) / math.sqrt(asked_BQD.shape[2])
    return score_BQK if slots.log_weight is None else score_BQK + slots.log_weight[:, None]


def _at(rows_BKD: Tensor, picked_BQ: Tensor) -> Tensor:
    """Return the picked row of each query's block."""
    return rows_BKD.gather(1, picked_BQ[..., None].expand(-1, -1, rows_BKD.shape[2]))
