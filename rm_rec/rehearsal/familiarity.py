"""Familiarity: classifying fragments as true or mixed, after the text of Rehearsal Memory (ICML 2021).

A mixed fragment has some of its unmasked events replaced by events of another user. The loss is computed from logits,
since the formula printed in the paper gives NaN. Suffixes: F fragment, R replaced event of a fragment, D dim.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Familiarity(nn.Module):
    """Predicts, from the hidden state of [CLS], whether a fragment is from the memory's user."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(token_dim, 1)

    def forward(
        self, true: Float[Tensor, "fragment dim"], mixed: Float[Tensor, "fragment dim"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the mean binary cross-entropy, and the accuracy over true and mixed fragments."""
        logit = torch.cat([self.score(true), -self.score(mixed)])
        return functional.softplus(-logit).mean(), (logit > 0).float().mean()


def others_events(
    lengths: Int[Tensor, " user"], user: Int[Tensor, " fragment"], per_fragment: int, generator: torch.Generator
) -> Int[Tensor, "fragment replaced"] | None:
    """Draw indices of other users' events uniformly, given all users' numbers of events; None if only one has any."""
    total = int(lengths.sum())
    others = total - lengths.index_select(0, user)
    if not len(user) or int(others.min()) == 0:
        return None
    uniform = torch.rand(len(user), per_fragment, generator=generator, device=user.device, dtype=torch.float64)
    end = lengths.cumsum(0).index_select(0, user)  # all others' events come after the user's, if indices wrap around
    return (end[:, None] + (uniform * others[:, None]).long()) % total
