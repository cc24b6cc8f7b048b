"""Familiarity: true fragments are told from mixed ones (Rehearsal Memory, ICML 2021, as described).

A mixed fragment has some of its unmasked events replaced by events of another user. With logits: the loss as printed in
the paper gives NaN. Suffixes: F fragment, R replaced event of a fragment, D dim.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Familiarity(nn.Module):
    """Says from what [CLS] came to whether the memory knows a fragment."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(token_dim, 1)

    def forward(
        self, true: Float[Tensor, "fragment dim"], mixed: Float[Tensor, "fragment dim"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the mean binary cross-entropy, and the share of fragments, true and mixed, that were told rightly."""
        logit = torch.cat([self.score(true), -self.score(mixed)])
        return functional.softplus(-logit).mean(), (logit > 0).float().mean()


def others_events(
    lengths: Int[Tensor, " user"], user: Int[Tensor, " fragment"], per_fragment: int, generator: torch.Generator
) -> Int[Tensor, "fragment replaced"] | None:
    """Draw events of other users, each as likely, given how many each user has; None if but one user has any."""
    total = int(lengths.sum())
    others = total - lengths.index_select(0, user)
    if not len(user) or int(others.min()) == 0:
        return None
    share = torch.rand(len(user), per_fragment, generator=generator, device=user.device, dtype=torch.float64)
    behind = lengths.cumsum(0).index_select(0, user)  # the others' events, in a ring, begin behind the user's
    return (behind[:, None] + (share * others[:, None]).long()) % total
