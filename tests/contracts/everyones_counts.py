"""A small source of answers without a state of a user: how often anybody met the target's item before the query."""

import torch
from torch import Tensor

from rm_rec.histories import Queries
from rm_rec.machines.base import State
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Stretch
from rm_rec.sources.base import AnswerSource


class EveryonesCounts(AnswerSource):
    """Counts the rows of all users by item, those that are earlier than the query."""

    keys = ("item",)
    num_features = 1

    def __init__(self) -> None:
        super().__init__()
        self.items = torch.zeros(0, dtype=torch.int64)
        self.times = torch.zeros(0, dtype=torch.int64)

    def add(self, items: Tensor, time: int) -> None:
        self.items = torch.cat([self.items, items])
        self.times = torch.cat([self.times, torch.full_like(items, time)])

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        same = queries.keys["item"][..., None] == self.items
        return (same & self.earlier(queries)).sum(dim=2, keepdim=True).float().log1p()

    def earlier(self, queries: QueryBlocks) -> Tensor:
        return self.times < queries.time[..., None]


def plant(source: AnswerSource, queries: Queries, time: int) -> None:
    """Add a row of that time for each query's item."""
    assert isinstance(source, EveryonesCounts)
    source.add(queries.keys["item"], time)
