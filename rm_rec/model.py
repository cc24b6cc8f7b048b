"""ClickModel: embeddings, a UserMemory and a click head.

Suffixes: U user, E event, I impression, D dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import ClickHead, FeatureSpace, ModelConfig
from rm_rec.embedding import FeatureEmbedding
from rm_rec.machines.base import State, StateTrace
from rm_rec.segments import Queries, Stretch, gap_bins, segment_index
from rm_rec.user_memory import UserMemory


@dataclass(frozen=True)
class StretchOutput:
    """What a model says of one stretch of a batch: all that a loss needs, the auxiliary ones too."""

    logits: Float[Tensor, " impression"]
    impression: Tensor  # [impressions of the stretch] which of the batch's they are
    queries: Queries
    stretch: Stretch
    trace: StateTrace
    start: int  # the boundary, counted from the histories' beginning, at which the stretch starts


class ClickModel(nn.Module):
    """The logit of a click for each impression, from its user's memory, its window, and the target."""

    def __init__(self, config: ModelConfig, features: FeatureSpace) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.embedding = FeatureEmbedding(features, config.token_dim, config.embedding_std)
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.memory = UserMemory(config)
        num_context = config.token_dim * len(features.context) + features.num_context_dense
        self.head = _Head(config.head, config.token_dim, self.memory, num_context)

    def forward(self, batch: UserBatch) -> Float[Tensor, " impression"]:
        """Return the logit of every impression of the batch, in its order."""
        logits = torch.zeros(len(batch.label), device=batch.label.device)
        for output in self.stretches(batch):
            logits = logits.index_put((output.impression,), output.logits)
        return logits

    def stretches(self, batch: UserBatch) -> Iterator[StretchOutput]:
        """Go through the batch's histories, at most `bptt_segments` writes at a time.

        Between stretches the state goes on without gradient. Call backward on each stretch's loss before asking for the
        next, and neither memory use nor the depth of gradients grows with the length of histories. A stretch without
        impressions is folded without gradient. The last stretch is a whole one, so that impressions at the end of long
        histories have gradients through `bptt_segments` writes.
        """
        batch.check(self.features)
        length = self.config.segment_length
        gaps = gap_bins(batch.event_time, batch.event_lengths)
        boundary_I = batch.num_earlier // length
        num_boundaries = int(boundary_I.max()) + 1 if len(boundary_I) else 1
        state = self.memory.initial(batch.num_users)
        # The last impressions of a stretch lie in its last segment: after the writes of all the others.
        step = num_boundaries if self.memory.window.whole_history else self.config.bptt_segments + 1
        end = num_boundaries % step or step
        start = 0
        while start < num_boundaries:
            rows = torch.nonzero((boundary_I >= start) & (boundary_I < end)).squeeze(1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and len(rows) > 0):
                output, state = self._stretch(batch, gaps, start, end, rows, state)
            if len(rows):
                yield output
            state = {name: values.detach() for name, values in state.items()}
            start, end = end, end + step

    def _stretch(
        self, batch: UserBatch, gaps: Tensor, start: int, end: int, rows: Tensor, state: State
    ) -> tuple[StretchOutput, State]:
        length = self.config.segment_length
        num_folded = min(start, self.memory.window.num_segments)
        first = start - num_folded
        index = segment_index(batch.event_lengths, length, first, end)
        position = index.position.flatten()
        event_tokens, target_tokens, context = self.embedding(
            {name: _at(ids, position) for name, ids in batch.events.items()},
            _at(gaps, position),
            {name: ids.index_select(0, rows) for name, ids in batch.targets.items()},
            {name: ids.index_select(0, rows) for name, ids in batch.context.items()},
        )
        event_tokens, target_tokens = self.token_dropout(event_tokens), self.token_dropout(target_tokens)
        stretch = Stretch(
            tokens=event_tokens.view(*index.position.shape, event_tokens.shape[1]),
            valid=index.valid,
            time=_at(batch.event_time, position).view(index.position.shape),
            num_folded=num_folded,
        )
        num_earlier = batch.num_earlier.index_select(0, rows)
        queries = Queries(
            tokens=target_tokens,
            user=batch.impression_user.index_select(0, rows),
            boundary=num_earlier // length - start,
            num_visible=num_earlier - first * length,
            time=batch.impression_time.index_select(0, rows),
        )
        answers, state, trace = self.memory(stretch, queries, state)
        context = torch.cat([context, batch.context_dense.index_select(0, rows)], dim=1)
        logits = self.head(target_tokens, answers, num_earlier, context)
        return StretchOutput(logits, rows, queries, stretch, trace, start), state


def _at(values: Tensor, position: Tensor) -> Tensor:
    """Pick events by position; padding points at 0, where there is nothing if nobody has events."""
    return values.index_select(0, position) if len(values) else values.new_zeros(len(position))


class _Head(nn.Module):
    """A perceptron on the target, the answers, their products with the target, the history's length and the context."""

    def __init__(self, config: ClickHead, token_dim: int, memory: UserMemory, num_context: int) -> None:
        super().__init__()
        self.attended = memory.attended
        dims = [(1 + len(self.attended)) * token_dim + memory.num_features + 1 + num_context, *config.hidden_dims]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(dims):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(dims[-1], 1))

    def forward(self, target: Tensor, answers: Tensor, num_earlier: Tensor, context: Tensor) -> Tensor:
        products = [answers[:, place] * target for place in self.attended]
        log_length = torch.log1p(num_earlier.to(target.dtype))[:, None]
        logits: Tensor = self.layers(torch.cat([target, answers, *products, log_length, context], dim=1))
        return logits.squeeze(1)
