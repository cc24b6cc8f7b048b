"""Fragments of histories, and the states that they are asked of: always later than the fragment's last event.

A user's fragments are runs of `length` events, one after the other from the history's start. They are found by
positions among all histories' events, so that every fragment is whole and padding is nowhere to be counted.
Suffixes: U user, G fragment of a user's history, F fragment asked for, B event of a fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rm_rec.histories import Histories, Queries


@dataclass(frozen=True)
class Fragments:
    """Fragments that a memory is asked for."""

    user: Int[Tensor, " fragment"]
    boundary: Int[Tensor, " fragment"]  # of the state that is asked: so many segments of the history are folded in it
    place: Int[Tensor, " fragment"]  # which of the user's fragments it is, counted from the history's start
    position: Int[Tensor, "fragment event"]  # where its events lie among all

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class FragmentGrid:
    """All fragments of some histories, each summed up as the mean of its events' vectors, without gradient."""

    count: Int[Tensor, " user"]
    summary: Float[Tensor, "user fragment dim"]  # zero where a user has no such fragment


def count_fragments(num_events: Int[Tensor, "*shape"], length: int) -> Int[Tensor, "*shape"]:
    """Count the whole fragments of the first events of a history."""
    return num_events // length


def known_events(histories: Histories, queries: Queries) -> Int[Tensor, " user"]:
    """Count each user's events that some query may see: no later one is rehearsed, and so none of a later split."""
    seen = histories.lengths[queries.user] if queries.num_earlier is None else queries.num_earlier
    return torch.zeros_like(histories.lengths).scatter_reduce_(0, queries.user, seen, reduce="amax")


def locate(histories: Histories, user_F: Tensor, place_F: Tensor, length: int) -> Int[Tensor, "fragment event"]:
    """Find fragments among the events of all histories."""
    within_B = torch.arange(length, device=user_F.device)
    return (histories.first.index_select(0, user_F) + place_F * length)[:, None] + within_B


def fragment_grid(
    histories: Histories, queries: Queries, content: Float[Tensor, "event dim"], length: int
) -> FragmentGrid:
    """Sum up every fragment of every history that some query may see, given the vectors of all events."""
    count_U = count_fragments(known_events(histories, queries), length)
    places = int(count_U.max()) if len(count_U) else 0
    place_G = torch.arange(places, device=count_U.device)
    there_UG = place_G < count_U[:, None]
    user_F, place_F = there_UG.nonzero(as_tuple=True)
    position_FB = locate(histories, user_F, place_F, length)
    content_FBD = content.index_select(0, position_FB.flatten()).view(*position_FB.shape, content.shape[1])
    summary_UGD = content.new_zeros(*there_UG.shape, content.shape[1])
    summary_UGD[there_UG] = content_FBD.mean(dim=1)
    return FragmentGrid(count_U, summary_UGD)
