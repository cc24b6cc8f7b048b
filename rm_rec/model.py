"""ClickModel: embeddings, a UserMemory and a click head.

Suffixes: U user, E event, I impression, D dim.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import ClickHead, FeatureSpace, ModelConfig
from rm_rec.embedding import FeatureEmbedding
from rm_rec.machines.base import State, StateTrace
from rm_rec.memories import Candidates, Events, Joined, UserMemories, no_memories
from rm_rec.resolved import resolved_config
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

    def __init__(self, config: ModelConfig, features: FeatureSpace, *, allowed_packages: Collection[str] = ()) -> None:
        super().__init__()
        config = resolved_config(config, allowed_packages)
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

    def no_memories(self, num_users: int) -> UserMemories:
        """Return the memories of users with no history; ConfigError where the model's window is the whole history."""
        weight = self.memory.window.age_bias
        state = self.memory.initial(num_users)
        return no_memories(state, num_users, self.memory.shape, self.features.events, weight.device)

    def fold(self, memories: UserMemories, events: Events) -> UserMemories:
        """Return the memories with events added, which are later than those they hold (or as late).

        Folding day by day gives what folding all days at once gives.
        """
        shape, length, steps = self.memory.shape, self.config.segment_length, self.config.bptt_segments
        joined = Joined.of(memories, events, shape)
        start = length * shape.num_full(memories.num_events)
        num_segments = (joined.lengths - start) // length
        most = int(num_segments.max()) if len(num_segments) else 0
        state = memories.state
        for first in range(0, most, steps):  # so that memory use does not grow with a history's length
            count = min(steps, most - first)
            place, valid = joined.places(start + first * length, count * length, start + num_segments * length)
            flat = place.flatten()
            tokens = self.embedding.events({name: ids[flat] for name, ids in joined.features.items()}, joined.gap[flat])
            stretch = Stretch(
                tokens=tokens.view(len(place), count, length, -1),
                valid=valid.view(len(place), count, length),
                time=joined.time[flat].view(len(place), count, length),
                num_folded=0,
            )
            state = {name: values[:, -1] for name, values in self.memory.fold(stretch, state).items()}
        num_events = memories.num_events + events.lengths
        kept = shape.window_length(num_events)
        place, _ = joined.places(joined.lengths - kept, shape.places, joined.lengths)
        last = (joined.first + joined.lengths - 1).clamp(min=0)

        def window(values: Tensor) -> Tensor:
            return _at(values, place.flatten()).view(place.shape)

        return UserMemories(
            state=state,
            num_events=num_events,
            last_time=torch.where(events.lengths > 0, _at(joined.time, last), memories.last_time),
            window_time=window(joined.time),
            window_gap=window(joined.gap),
            window_features={name: window(ids) for name, ids in joined.features.items()},
        )

    def score(self, memories: UserMemories, candidates: Candidates) -> Float[Tensor, " candidate"]:
        """Return the logit of a click on each candidate, from its user's memory alone."""
        if not len(candidates.user):
            return candidates.context_dense.new_zeros(0)
        num_full = self.memory.shape.num_full(memories.num_events)
        least, most = (int(bound) for bound in torch.aminmax(num_full))
        if least == most:
            return self._score(memories, candidates, most)
        logits = candidates.context_dense.new_zeros(len(candidates.user))
        place = torch.empty_like(num_full)
        for count in range(least, most + 1):  # users with as many full segments in their windows are scored together
            users = torch.nonzero(num_full == count).squeeze(1)
            place[users] = torch.arange(len(users), device=users.device)
            rows = torch.nonzero(num_full[candidates.user] == count).squeeze(1)
            if not len(rows):
                continue
            chosen = candidates.select(rows, place)
            logits = logits.index_put((rows,), self._score(memories.select(users), chosen, count))
        return logits

    def _score(self, memories: UserMemories, candidates: Candidates, num_full: int) -> Tensor:
        length = self.config.segment_length
        width = (num_full + 1) * length
        kept = self.memory.shape.window_length(memories.num_events)
        event_tokens, target_tokens, context = self.embedding(
            {name: ids[:, :width].flatten() for name, ids in memories.window_features.items()},
            memories.window_gap[:, :width].flatten(),
            candidates.targets,
            candidates.context,
        )
        shape = (len(kept), num_full + 1, length)
        stretch = Stretch(
            tokens=event_tokens.view(*shape, -1),
            valid=(torch.arange(width, device=kept.device) < kept[:, None]).view(shape),
            time=memories.window_time[:, :width].reshape(shape),
            num_folded=num_full,
        )
        queries = Queries(
            tokens=target_tokens,
            user=candidates.user,
            boundary=torch.zeros_like(candidates.user),
            num_visible=kept[candidates.user],
            time=candidates.time,
        )
        trace = {name: values[:, None] for name, values in memories.state.items()}
        answers = self.memory.answer(stretch, queries, trace)
        context = torch.cat([context, candidates.context_dense], dim=1)
        logits: Tensor = self.head(target_tokens, answers, memories.num_events[candidates.user], context)
        return logits

    def writing_weights(self) -> dict[str, Tensor]:
        """Return, by their names, the weights that decide what is written: all others only read memories."""
        tables = {f"embedding.{name}" for name in self.embedding.event_weights()}
        places = ("memory.encoder.", "memory.machine.")
        weights = self.state_dict()
        return {name: weight for name, weight in weights.items() if name in tables or name.startswith(places)}

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
