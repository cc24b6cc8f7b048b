"""Fragments of histories, which rehearsal asks a later state for.

A history is divided into fragments of `length` consecutive events, from its start; a rest that is shorter is left out.
Fragments are indices of events, so they never contain padding.
Suffixes: U user, G fragment of a user's history, F drawn fragment, B event of a fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rm_rec.histories import Histories, Queries


@dataclass(frozen=True)
class Fragments:
    """Fragments that are drawn, each with the boundary of the state that is asked for it."""

    user: Int[Tensor, " fragment"]
    boundary: Int[Tensor, " fragment"]  # number of segments that the state has folded
    index: Int[Tensor, " fragment"]  # among the user's fragments, from the start of the history
    position: Int[Tensor, "fragment event"]  # indices of the events among those of all histories

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class FragmentGrid:
    """All fragments of some histories, each summarised by the mean of its events' vectors, without gradient."""

    count: Int[Tensor, " user"]
    summary: Float[Tensor, "user fragment dim"]  # zero beyond a user's fragments


def count_fragments(num_events: Int[Tensor, "*shape"], length: int) -> Int[Tensor, "*shape"]:
    """Return the number of whole fragments in the first `num_events` events of a history."""
    return num_events // length


def known_events(histories: Histories, queries: Queries) -> Int[Tensor, " user"]:
    """Return the number of each user's events that some query sees: later events, as of other splits, are not drawn."""
    seen = histories.lengths[queries.user] if queries.num_earlier is None else queries.num_earlier
    return torch.zeros_like(histories.lengths).scatter_reduce_(0, queries.user, seen, reduce="amax")


def locate(histories: Histories, user_F: Tensor, index_F: Tensor, length: int) -> Int[Tensor, "fragment event"]:
    """Return the indices, among the events of all histories, of the events of users' fragments."""
    within_B = torch.arange(length, device=user_F.device)
    return (histories.first.index_select(0, user_F) + index_F * length)[:, None] + within_B


def fragment_grid(
    histories: Histories, queries: Queries, content: Float[Tensor, "event dim"], length: int
) -> FragmentGrid:
    """Summarise all fragments that some query sees, from the vectors `content` of all events."""
    count_U = count_fragments(known_events(histories, queries), length)
    most = int(count_U.max()) if len(count_U) else 0
    exists_UG = torch.arange(most, device=count_U.device) < count_U[:, None]
    user_F, index_F = exists_UG.nonzero(as_tuple=True)
    position_FB = locate(histories, user_F, index_F, length)
    content_FBD = content.index_select(0, position_FB.flatten()).view(*position_FB.shape, content.shape[1])
    summary_UGD = content.new_zeros(*exists_UG.shape, content.shape[1])
    summary_UGD[exists_UG] = content_FBD.mean(dim=1)
    return FragmentGrid(count_U, summary_UGD)
