"""The history sampler: which fragments of a history are rehearsed.

Uniform; or by a teacher, target attention over the fragments of the whole history, trained on the batch's clicks, whose
attention is the distribution; or by a student that learns the teacher's distribution without its queries. Teacher and
student see the model's vectors without gradient: they change what is rehearsed, and the model by nothing else.
Suffixes: U user, G fragment of a user's history, Q query (an impression), F fragment drawn, D dim.
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
    """Impressions that a teacher learns from: vectors of their targets, and how much history each has."""

    user: Int[Tensor, " query"]
    target: Float[Tensor, "query dim"]
    num_earlier: Int[Tensor, " query"]
    label: Float[Tensor, " query"]


class HistorySampler(nn.Module):
    """Draws fragments by teacher or student, or uniformly where there is neither."""

    def __init__(self, config: Sampler, token_dim: int, fragment_length: int) -> None:
        super().__init__()
        self.learnt = config if isinstance(config, LearntSampler) else None
        self.fragment_length = fragment_length
        self.teacher = FragmentTeacher(token_dim) if self.learnt is not None else None
        self.student = FragmentStudent(token_dim) if isinstance(config, StudentSampler) else None

    def forward(
        self, grid: FragmentGrid, clicks: Clicks, generator: torch.Generator
    ) -> tuple[Float[Tensor, "user fragment"], Tensor]:
        """Return how likely each fragment is, up to a factor a user, and the loss that teaches the sampler itself."""
        assert self.teacher is not None
        assert self.learnt is not None
        num_older_Q = count_fragments(clicks.num_earlier, self.fragment_length)
        chosen = (num_older_Q > 0).nonzero().squeeze(1)
        order = torch.randperm(len(chosen), generator=generator, device=chosen.device)[: self.learnt.max_queries]
        chosen = chosen[order]
        user_Q = clicks.user[chosen]
        logits_Q, share_QG = self.teacher(clicks.target[chosen], grid.summary[user_Q], num_older_Q[chosen])
        loss = logits_Q.new_zeros(())
        if len(chosen):
            loss = functional.binary_cross_entropy_with_logits(logits_Q, clicks.label[chosen])
        share_UG = grid.summary.new_zeros(grid.summary.shape[:2]).index_add_(0, user_Q, share_QG.detach())
        if self.student is None:
            return share_UG, loss
        log_share_UG = self.student(grid)
        taught = share_UG.sum(dim=1) > 0
        if bool(taught.any()):
            want = functional.normalize(share_UG[taught], p=1, dim=1)
            loss = loss - (want * log_share_UG[taught].clamp(min=-30.0)).sum(dim=1).mean()
        return log_share_UG.detach().exp(), loss

    def draw(
        self,
        weight_FG: Float[Tensor, "fragment place"] | None,
        num_available: Int[Tensor, " fragment"],
        generator: torch.Generator,
    ) -> Int[Tensor, " fragment"]:
        """Draw one of the first fragments for each row: by weight, but for a share that is drawn uniformly."""
        place_F = draw_uniform(num_available, generator)
        if weight_FG is None or self.learnt is None:
            return place_F
        older_FG = torch.arange(weight_FG.shape[1], device=weight_FG.device) < num_available[:, None]
        weight_FG = weight_FG.masked_fill(~older_FG, 0.0)
        by_weight = torch.rand(len(place_F), generator=generator, device=place_F.device) >= self.learnt.uniform_share
        by_weight &= weight_FG.sum(dim=1) > 0
        if bool(by_weight.any()):
            place_F[by_weight] = torch.multinomial(weight_FG[by_weight], 1, generator=generator).squeeze(1)
        return place_F


def draw_uniform(num_available: Int[Tensor, "*shape"], generator: torch.Generator) -> Int[Tensor, "*shape"]:
    """Draw from 0 to num_available - 1, each as likely."""
    share = torch.rand(num_available.shape, generator=generator, device=num_available.device, dtype=torch.float64)
    return (share * num_available).long()


class FragmentTeacher(nn.Module):
    """Predicts clicks by target attention over fragments of the whole raw history; the attention is what it is for."""

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
        """Return each query's logit of a click, and its attention to the fragments before it."""
        place_G = torch.arange(summary.shape[1], device=summary.device)
        age_QG = num_older[:, None] - place_G
        score_QG = (self.key(summary) @ self.query(target)[..., None]).squeeze(-1) + self.age_bias[time_bins(age_QG)]
        score_QG = score_QG.masked_fill(age_QG <= 0, -torch.inf)
        score = torch.cat([score_QG, self.null.expand(len(target), 1)], dim=1)
        share = score.softmax(dim=1)
        share_QG, null_Q1 = share[:, :-1], share[:, -1:]
        answer = (share_QG[:, None] @ summary).squeeze(1)
        logits: Tensor = self.head(torch.cat([target, answer, answer * target, null_Q1], dim=1))
        return logits.squeeze(1), share_QG


class FragmentStudent(nn.Module):
    """Scores a fragment by itself, its user's other fragments and its age."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.age_bias = nn.Parameter(torch.zeros(NUM_TIME_BINS))
        self.score = nn.Sequential(nn.Linear(3 * token_dim, token_dim), nn.ReLU(), nn.Linear(token_dim, 1))

    def forward(self, grid: FragmentGrid) -> Float[Tensor, "user fragment"]:
        """Return the logarithm of each fragment's share among its user's; -inf where there is none."""
        summary = grid.summary
        count_U1 = grid.count[:, None]
        mean = summary.sum(dim=1, keepdim=True) / count_U1[..., None].clamp(min=1)
        age_UG = count_U1 - torch.arange(summary.shape[1], device=summary.device)
        features = torch.cat([summary, mean.expand_as(summary), summary * mean], dim=2)
        score_UG: Tensor = self.score(features).squeeze(-1) + self.age_bias[time_bins(age_UG)]
        score_UG = score_UG.masked_fill(age_UG <= 0, -torch.inf)
        # A user without fragments has none to share among: a finite total keeps NaN away.
        total_U1 = score_UG.masked_fill(count_U1 == 0, 0.0).logsumexp(dim=1, keepdim=True)
        return score_UG - total_U1
