"""Hard attention: each hop selects the one slot with the highest score, given the slots selected before.

Source: Memory Networks (Weston et al., ICLR 2015, sections 3.1 and 3.3): with a query x and memories m_i,

    o_1 = argmax_i s([x], m_i),   o_2 = argmax_i s([x, m_o1], m_i), ...      s(x, y) = Phi_x(x)^T U^T U Phi_y(y)
    loss = sum over hops and slots i that do not support: max(0, margin - s(.., m_support) + s(.., m_i))

Phi has separate features for the query, the selected memories and the candidates, so U Phi is three matrices here:
s([x, m_o1], m_i) = (U_x x + U_m m_o1) . U_y m_i / sqrt(D), scaled as all attention is here. They are initialised to the
identity. Differences from the paper: no slot is selected twice for one query (with identity matrices each would select
itself again); the hinge loss is the mean over the other slots, not their sum, so that its weight does not depend on
their number; and the paper's response module is the click head, which sees each selected slot's value and score. The
scores, and so U, also learn from clicks.

**Weak labels.** In the paper's data the supporting facts of an answer are labelled. A click log has no such labels:
`weak_support` takes the slots with the highest cosine similarity to a clicked target. These may not have decided the
click.
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
    """Selects one slot per hop; a hop without a slot left to select answers zero."""

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
        """Size of an answer: each hop's selected value, then each hop's score."""
        return self.config.num_hops * (self.token_dim + 1)

    @property
    def attended(self) -> list[slice]:
        """The first features of an answer are the selected values."""
        starts = range(0, self.config.num_hops * self.token_dim, self.token_dim)
        return [slice(start, start + self.token_dim) for start in starts]

    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory; `recent` is not used."""
        context_BKD, key_BKD, value_BKD = self._project(slots)
        query_BQD = self.asked(queries)
        left_BQK = slots.valid[:, None].expand(-1, queries.shape[1], -1)
        values, scores = [], []
        for _ in range(self.config.num_hops):
            score_BQK = _scores(query_BQD, key_BKD, slots)
            selected_BQ = score_BQK.masked_fill(~left_BQK, -math.inf).argmax(dim=-1)
            valid_BQ1 = left_BQK.gather(2, selected_BQ[..., None])
            values.append(_selected_rows(value_BKD, selected_BQ).masked_fill(~valid_BQ1, 0.0))
            scores.append(score_BQK.gather(2, selected_BQ[..., None]).masked_fill(~valid_BQ1, 0.0))
            query_BQD = query_BQD + _selected_rows(context_BKD, selected_BQ)
            left_BQK = left_BQK.scatter(2, selected_BQ[..., None], False)
        return torch.cat([*values, *scores], dim=-1)

    def support_loss(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        support: Int[Tensor, "block query hop"],
        known: Bool[Tensor, "block query hop"],
    ) -> Float[Tensor, "block query"]:
        """Return each query's hinge loss, summed over hops: the supporting slot should win by the margin.

        `support` is the index of the supporting slot for each hop; hops that are not `known` have no loss. As in the
        paper, the query of each hop includes the true supporting slots of the hops before, not the selected ones.
        """
        context_BKD, key_BKD, _ = self._project(slots)
        query_BQD = self.asked(queries)
        left_BQK = slots.valid[:, None].expand(-1, queries.shape[1], -1)
        loss_BQ = torch.zeros_like(queries[..., 0])
        for support_BQ, known_BQ in zip(support.unbind(2), known.unbind(2), strict=True):
            score_BQK = _scores(query_BQD, key_BKD, slots)
            support_score_BQ1 = score_BQK.gather(2, support_BQ[..., None])
            left_BQK = left_BQK.scatter(2, support_BQ[..., None], False)
            gap_BQK = self.config.margin - support_score_BQ1 + score_BQK
            hinge_BQK = gap_BQK.clamp(min=0.0).masked_fill(~left_BQK, 0.0)
            hinge_BQ = hinge_BQK.sum(dim=2) / left_BQK.sum(dim=2).clamp(min=1)
            loss_BQ = loss_BQ + hinge_BQ.masked_fill(~known_BQ, 0.0)
            query_BQD = query_BQD + _selected_rows(context_BKD, support_BQ)
        return loss_BQ

    def penalty(
        self, queries: Float[Tensor, "block query dim"], slots: Slots, clicked: Bool[Tensor, "block query"]
    ) -> Float[Tensor, "block query"]:
        """Return the weighted hinge loss of clicked queries, with weak labels; zero for queries without a click."""
        support, known = weak_support(queries, slots, self.config.num_hops)
        return self.config.support_weight * self.support_loss(queries, slots, support, known & clicked[..., None])

    def _project(self, slots: Slots) -> tuple[Tensor, Tensor, Tensor]:
        return self.found(slots.keys), self.looked_for(slots.keys), self.value(slots.values)


@torch.no_grad()
def weak_support(
    queries: Float[Tensor, "block query dim"], slots: Slots, num_hops: int
) -> tuple[Int[Tensor, "block query hop"], Bool[Tensor, "block query hop"]]:
    """Return the slots most similar to each query, the most similar first, as a guess at what supports a click.

    Similarity is the cosine of the query and the slot's value, over the dimensions that both have. Returns the slots'
    indices, and whether each is a valid slot.
    """
    dim = min(queries.shape[2], slots.values.shape[2])
    values_BKD = functional.normalize(slots.values[..., :dim], dim=-1)
    cosine_BQK = functional.normalize(queries[..., :dim], dim=-1) @ values_BKD.transpose(1, 2)
    cosine_BQK = cosine_BQK.masked_fill(~slots.valid[:, None], -math.inf)
    best = cosine_BQK.topk(min(num_hops, cosine_BQK.shape[2]), dim=-1)
    return best.indices, best.values > -math.inf


def _scores(query_BQD: Tensor, key_BKD: Tensor, slots: Slots) -> Tensor:
    score_BQK = query_BQD @ key_BKD.transpose(1, 2) / math.sqrt(query_BQD.shape[2])
    return score_BQK if slots.log_weight is None else score_BQK + slots.log_weight[:, None]


def _selected_rows(rows_BKD: Tensor, selected_BQ: Tensor) -> Tensor:
    """Return the selected row [B, Q, D] of each query's block."""
    return rows_BKD.gather(1, selected_BQ[..., None].expand(-1, -1, rows_BKD.shape[2]))
