"""The history sampler, which draws the fragments that are rehearsed.

It draws uniformly; or by a teacher, a target attention over all fragments of the history that is trained on the batch's
clicks and whose attention weights are the distribution; or by a student that learns the teacher's distribution without
seeing the targets. Teacher and student receive the model's vectors without gradient: they influence the model only by
what is rehearsed. Suffixes: U user, G fragment of a user's history, Q query (an impression), F drawn fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config import LearntSampler, Sampler, StudentSampler
from rm_rec.rehearsal.fragments import FragmentGrid, count_fragments
from rm_rec.time_bins import NUM_TIME_BINS, time_bins


@dataclass(frozen=True)
class Clicks:
    """Impressions that a teacher learns from: their targets' vectors, numbers of earlier events, and labels."""

    user: Int[Tensor, " query"]
    target: Float[Tensor, "query dim"]
    num_earlier: Int[Tensor, " query"]
    label: Float[Tensor, " query"]


class HistorySampler(nn.Module):
    """Draws fragments by teacher or student, or uniformly without them."""

    def __init__(self, config: Sampler, token_dim: int, fragment_length: int) -> None:
        super().__init__()
        self.learnt = config if isinstance(config, LearntSampler) else None
        self.fragment_length = fragment_length
        self.teacher = FragmentTeacher(token_dim) if self.learnt is not None else None
        self.student = FragmentStudent(token_dim) if isinstance(config, StudentSampler) else None

    def forward(
        self, grid: FragmentGrid, clicks: Clicks, generator: torch.Generator
    ) -> tuple[Float[Tensor, "user fragment"], Tensor]:
        """Return the weights of all fragments, not normalised, and the loss that trains teacher and student."""
        assert self.teacher is not None
        assert self.learnt is not None
        num_older_Q = count_fragments(clicks.num_earlier, self.fragment_length)
        chosen = (num_older_Q > 0).nonzero().squeeze(1)
        order = torch.randperm(len(chosen), generator=generator, device=chosen.device)[: self.learnt.max_queries]
        chosen = chosen[order]
        user_Q = clicks.user[chosen]
        logits_Q, weight_QG = self.teacher(clicks.target[chosen], grid.summary[user_Q], num_older_Q[chosen])
        loss = logits_Q.new_zeros(())
        if len(chosen):
            loss = functional.binary_cross_entropy_with_logits(logits_Q, clicks.label[chosen])
        weight_UG = grid.summary.new_zeros(grid.summary.shape[:2]).index_add_(0, user_Q, weight_QG.detach())
        if self.student is None:
            return weight_UG, loss
        log_probability_UG = self.student(grid)
        has_target = weight_UG.sum(dim=1) > 0
        if bool(has_target.any()):
            target = functional.normalize(weight_UG[has_target], p=1, dim=1)
            loss = loss - (target * log_probability_UG[has_target].clamp(min=-30.0)).sum(dim=1).mean()
        return log_probability_UG.detach().exp(), loss

    def draw(
        self,
        weight_FG: Float[Tensor, "fragment available"] | None,
        num_available: Int[Tensor, " fragment"],
        generator: torch.Generator,
    ) -> Int[Tensor, " fragment"]:
        """Draw, for each row, the index of one of its first `num_available` fragments.

        A fraction of the rows, `uniform_share`, draws uniformly; the others draw by weight.
        """
        index_F = draw_uniform(num_available, generator)
        if weight_FG is None or self.learnt is None:
            return index_F
        older_FG = torch.arange(weight_FG.shape[1], device=weight_FG.device) < num_available[:, None]
        weight_FG = weight_FG.masked_fill(~older_FG, 0.0)
        by_weight = torch.rand(len(index_F), generator=generator, device=index_F.device) >= self.learnt.uniform_share
        by_weight &= weight_FG.sum(dim=1) > 0
        if bool(by_weight.any()):
            index_F[by_weight] = torch.multinomial(weight_FG[by_weight], 1, generator=generator).squeeze(1)
        return index_F


def draw_uniform(num_available: Int[Tensor, "*shape"], generator: torch.Generator) -> Int[Tensor, "*shape"]:
    """Draw integers uniformly from 0 to num_available - 1."""
    uniform = torch.rand(num_available.shape, generator=generator, device=num_available.device, dtype=torch.float64)
    return (uniform * num_available).long()


class FragmentTeacher(nn.Module):
    """Predicts clicks by target attention over all fragments of the raw history, for the sake of the attention."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(token_dim, token_dim, bias=False)
        self.key = nn.Linear(token_dim, token_dim, bias=False)
        self.null = nn.Parameter(torch.zeros(1))
        self.age_bias = nn.Parameter(torch.zeros(NUM_TIME_BINS))
        self.head = nn.Sequential(nn.Linear(3 * token_dim + 1, token_dim), nn.ReLU(), nn.Linear(token_dim, 1))
        for projection in (self.query, self.key):
            nn.init.eye_(projection.weight)

    def forward(
        self,
        target: Float[Tensor, "query dim"],
        summary: Float[Tensor, "query fragment dim"],
        num_older: Int[Tensor, " query"],
    ) -> tuple[Float[Tensor, " query"], Float[Tensor, "query fragment"]]:
        """Return each query's click logit, and its attention weights over the fragments before it."""
        age_QG = num_older[:, None] - torch.arange(summary.shape[1], device=summary.device)
        score_QG = (self.key(summary) @ self.query(target)[..., None]).squeeze(-1) + self.age_bias[time_bins(age_QG)]
        score_QG = score_QG.masked_fill(age_QG <= 0, -torch.inf)
        score = torch.cat([score_QG, self.null.expand(len(target), 1)], dim=1)
        weight = score.softmax(dim=1)
        weight_QG, null_Q1 = weight[:, :-1], weight[:, -1:]
        answer = (weight_QG[:, None] @ summary).squeeze(1)
        logits: Tensor = self.head(torch.cat([target, answer, answer * target, null_Q1], dim=1))
        return logits.squeeze(1), weight_QG


class FragmentStudent(nn.Module):
    """Scores a fragment by its summary, the mean of its user's fragments, and its age."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.age_bias = nn.Parameter(torch.zeros(NUM_TIME_BINS))
        self.score = nn.Sequential(nn.Linear(3 * token_dim, token_dim), nn.ReLU(), nn.Linear(token_dim, 1))

    def forward(self, grid: FragmentGrid) -> Float[Tensor, "user fragment"]:
        """Return each fragment's log probability among its user's fragments; -inf beyond these."""
        summary = grid.summary
        count_U1 = grid.count[:, None]
        mean = summary.sum(dim=1, keepdim=True) / count_U1[..., None].clamp(min=1)
        age_UG = count_U1 - torch.arange(summary.shape[1], device=summary.device)
        features = torch.cat([summary, mean.expand_as(summary), summary * mean], dim=2)
        score_UG: Tensor = self.score(features).squeeze(-1) + self.age_bias[time_bins(age_UG)]
        score_UG = score_UG.masked_fill(age_UG <= 0, -torch.inf)
        # A finite total for users without fragments avoids NaN.
        total_U1 = score_UG.masked_fill(count_U1 == 0, 0.0).logsumexp(dim=1, keepdim=True)
        return score_UG - total_U1
