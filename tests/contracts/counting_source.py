"""A small source of answers with an integer state: how often the target's item was met, folded and since."""

import torch
from torch import Tensor

from rm_rec.machines.base import State, StateTrace
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart


class CountingSource(AnswerSource):
    """Counts a user's events by item, hashed to a few buckets."""

    keys = ("item",)
    num_features = 2

    def __init__(self, num_buckets: int = 16) -> None:
        super().__init__()
        self.num_buckets = num_buckets

    def state_parts(self) -> dict[str, StatePart]:
        return {"count": StatePart((self.num_buckets,), torch.int64)}

    def initial(self, num_users: int) -> State:
        return {"count": torch.zeros(num_users, self.num_buckets, dtype=torch.int64)}

    def fold(self, state: State, segments: Segments) -> StateTrace:
        met = self._bucket(segments.keys["item"]) & segments.valid[..., None]
        counts = torch.cat([state["count"][:, None], met.sum(dim=2)], dim=1)
        return {"count": counts.cumsum(dim=1)}

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        """Two logarithms of counts: of what is folded, and of the events since that a query may see."""
        asked = self._bucket(queries.keys["item"])
        folded = (asked & True).long() @ state["count"][..., None]
        items, length = recent.segments.keys["item"], recent.segments.valid.shape[2]
        place = torch.arange(items[0].numel()) if len(items) else torch.zeros(0, dtype=torch.int64)
        tail = ((queries.boundary + recent.num_folded) * length)[:, None, None]
        seen = (place >= tail) & (place < queries.num_visible[..., None])
        same = asked.long() @ self._bucket(items.flatten(1))[queries.user].long().transpose(1, 2)
        since = (same * seen).sum(dim=2, keepdim=True)
        return torch.cat([folded, since], dim=2).float().log1p()

    def _bucket(self, items: Tensor) -> Tensor:
        """One of `num_buckets` is True."""
        return (items % self.num_buckets)[..., None] == torch.arange(self.num_buckets)
