"""Recollection: picking masked events out of candidates, after the text of Rehearsal Memory (ICML 2021).

Suffixes: F fragment, M masked event of a fragment, C candidate, D dim.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Recollection(nn.Module):
    """Scores candidates for a masked event by the dot product of their vectors with the decoder's output."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(token_dim, token_dim)
        nn.init.eye_(self.answer.weight)  # so that outputs are in the events' space from the start
        nn.init.zeros_(self.answer.bias)

    def forward(
        self,
        decoded: Float[Tensor, "fragment masked dim"],
        true: Float[Tensor, "fragment masked dim"],
        true_key: Int[Tensor, "fragment masked"],
        candidate: Float[Tensor, "#fragment candidate dim"],
        candidate_key: Int[Tensor, "#fragment candidate"],
    ) -> tuple[Float[Tensor, ""], Bool[Tensor, "fragment masked"]]:
        """Return the mean softmax cross-entropy, and whether each masked event has the highest score.

        Each fragment has its own wrong candidates, or all have the same. A candidate with the same key (the same
        features) as the masked event is not wrong, and is left out.
        """
        answer_FMD = self.answer(decoded)
        right_FM1 = (answer_FMD * true).sum(dim=-1, keepdim=True)
        wrong_FMC = answer_FMD @ candidate.transpose(1, 2)
        wrong_FMC = wrong_FMC.masked_fill(true_key[..., None] == candidate_key[:, None], -torch.inf)
        loss = (torch.cat([right_FM1, wrong_FMC], dim=-1).logsumexp(dim=-1) - right_FM1.squeeze(-1)).mean()
        # A tie does not count as success: a memory without any information gives equal scores.
        return loss, right_FM1.squeeze(-1) > wrong_FMC.amax(dim=-1)


def event_keys(events: Mapping[str, Int[Tensor, " event"]]) -> Int[Tensor, " event"]:
    """Return a hash of each event's features."""
    key = torch.zeros_like(next(iter(events.values())))
    for ids in events.values():
        key = key * 0x5851F42D4C957F2D + ids + 1  # wraps around
    return key
