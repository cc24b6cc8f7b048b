"""A source of answers with integers for a state: how often a user has met the target's key."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.sources import SourceSettings
from rm_rec.machines.base import State, StateTrace
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart


class Counts(SourceSettings):
    """How often a user has met the target's key."""

    key: str = "item"
    num_buckets: int = Field(64, ge=1)


class CountsSource(AnswerSource):
    """Counts a user's events by one key, hashed to buckets: exact integers, of the whole history.

    An answer is log(1 + how many events share the target's bucket), and the mean of a learned vector a bucket over all
    events, which a head compares to targets.
    """

    config_type = Counts

    def __init__(self, config: Counts, token_dim: int, segment_length: int) -> None:
        super().__init__()
        self.keys = (config.key,)
        self.num_buckets = config.num_buckets
        self.vectors = nn.Parameter(torch.randn(config.num_buckets, token_dim) / token_dim**0.5)

    @property
    def num_features(self) -> int:
        """Size of an answer: a count and a vector."""
        return 1 + self.vectors.shape[1]

    @property
    def attended(self) -> list[slice]:
        """Where the vector lies."""
        return [slice(1, self.num_features)]

    def state_parts(self) -> dict[str, StatePart]:
        """One integer a bucket: events of full segments."""
        return {"folded": StatePart((self.num_buckets,), torch.int64)}

    def writing_modules(self) -> tuple[str, ...]:
        """None: what is counted depends on no weight."""
        return ()

    def initial(self, num_users: int) -> State:
        """Nothing was counted."""
        zeros = torch.zeros(num_users, self.num_buckets, dtype=torch.int64, device=self.vectors.device)
        return {"folded": zeros}

    def fold(self, state: State, segments: Segments) -> StateTrace:
        """Add each segment's counts to those before it."""
        counts_USB = self._counts(segments.keys.values(), segments.valid)
        return {"folded": torch.cat([state["folded"][:, None], counts_USB], dim=1).cumsum(dim=1)}

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Float[Tensor, "block query features"]:
        """Look the target up among the folded counts and those of the tail, which no state holds."""
        length = recent.segments.valid.shape[2]
        tail_B = recent.num_folded + queries.boundary  # the segment after a block's boundary
        there_B = (tail_B < recent.segments.valid.shape[1])[:, None, None]
        at = (queries.user, tail_B.clamp(max=recent.segments.valid.shape[1] - 1))
        place_BL = length * tail_B[:, None] + torch.arange(length, device=tail_B.device)
        seen_BQL = (place_BL[:, None] < queries.num_visible[..., None]) & there_B
        keys = [values[at][:, None].expand(seen_BQL.shape) for values in recent.segments.keys.values()]
        counts_BQK = self._counts(keys, seen_BQL) + state["folded"][:, None]
        bucket_BQ1 = self._bucket(queries.keys[self.keys[0]])[..., None]
        share_BQK = counts_BQK / counts_BQK.sum(dim=2, keepdim=True).clamp(min=1)
        return torch.cat([counts_BQK.gather(2, bucket_BQ1).float().log1p(), share_BQK @ self.vectors], dim=2)

    def _counts(self, keys: Iterable[Tensor], valid: Tensor) -> Int[Tensor, "*shape bucket"]:
        (key,) = keys
        counts = functional.one_hot(self._bucket(key), self.num_buckets) * valid[..., None]
        return counts.sum(dim=-2)

    def _bucket(self, key: Tensor) -> Tensor:
        return (key * 0x9E3779B1).bitwise_right_shift(7) % self.num_buckets
