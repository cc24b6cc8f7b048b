"""ClickModel: embeddings, a UserMemory and a click head.

Suffixes: U user, E event, I impression, D dim.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.batch import Candidates, UserBatch
from rm_rec.byte_dropout import ByteDropout
from rm_rec.config import ClickHead, FeatureSpace, MemoryConfig, ModelConfig
from rm_rec.embedding import Embedded, FeatureEmbedding
from rm_rec.histories import TOKENS, Histories, take
from rm_rec.memory_state import MemoryState
from rm_rec.resolved import resolved_config
from rm_rec.user_memory import StretchAnswers, UserMemory, in_order


@dataclass(frozen=True)
class StretchLogits:
    """The logits of the impressions of one stretch of a batch, with what auxiliary losses need."""

    logits: Float[Tensor, " impression"]
    impression: Tensor  # [impressions of the stretch] their indices in the batch
    memory: StretchAnswers


class ClickModel(nn.Module):
    """Predicts the logit of a click for each impression, from the target and its user's memory and window.

    `memory` may be given as a module; its settings then replace those of the config. TorchRec can shard the embedding
    tables; with `shardable=False` it is not imported, which takes seconds, and weights and results are the same. Raises
    ConfigError as `UserMemory` does.

    >>> features = FeatureSpace(rows={"item": 50}, events=("item",), targets=("item",))
    >>> model = ClickModel(ModelConfig(segment_length=4), features).eval()
    >>> events = Histories(lengths=torch.tensor([6]), time=torch.arange(6), keys={"item": torch.arange(6)})
    >>> kept = model.fold(model.no_memories(1), events)  # state and window of one user
    >>> user, time = torch.zeros(2, dtype=torch.int64), torch.tensor([9, 9])
    >>> items = {"item": torch.tensor([3, 7])}
    >>> candidates = Candidates(user=user, time=time, targets=items, context={}, context_dense=torch.zeros(2, 0))
    >>> model.score(kept, candidates).shape  # logits
    torch.Size([2])
    """

    def __init__(
        self,
        config: ModelConfig,
        features: FeatureSpace,
        *,
        memory: UserMemory | None = None,
        allowed_packages: Collection[str] = (),
        shardable: bool = True,
    ) -> None:
        super().__init__()
        config = resolved_config(config, allowed_packages)
        if memory is not None:
            own = {name: getattr(memory.config, name) for name in MemoryConfig.model_fields}
            config = config.model_copy(update=own)
        self.config = config
        self.features = features
        self.embedding = FeatureEmbedding(features, config.token_dim, config.embedding_std, shardable=shardable)
        self.token_dropout = ByteDropout(config.token_dropout)
        self.memory = memory if memory is not None else UserMemory(config)
        num_context = config.token_dim * len(features.context) + features.num_context_dense
        self.head = _Head(config.head, config.token_dim, self.memory, num_context)

    def forward(self, batch: UserBatch) -> Float[Tensor, " impression"]:
        """Return the logits of the batch's impressions, in their order."""
        parts = list(self.stretches(batch, every_boundary=False))
        if not parts:
            return batch.label.new_zeros(0)
        return in_order([part.logits for part in parts], [part.impression for part in parts])

    def embed(self, batch: UserBatch) -> Embedded:
        """Look up all vectors of a batch in one call; in training, with dropout on those of events and targets.

        Raises BatchError if the batch lacks a feature of the model or has an id outside its table.
        """
        batch.check(self.features)
        vectors: Embedded = self.embedding(batch.events, batch.event_gap, batch.targets, batch.context)
        return replace(vectors, events=self.token_dropout(vectors.events), targets=self.token_dropout(vectors.targets))

    def stretches(
        self, batch: UserBatch, vectors: Embedded | None = None, *, every_boundary: bool = True
    ) -> Iterator[StretchLogits]:
        """Yield the batch's logits in stretches of at most `bptt_segments` writes (see `UserMemory.stretches`).

        `vectors` is the result of `embed`, or leaves in its place, as `sum_of_losses` makes them.
        """
        vectors = self.embed(batch) if vectors is None else vectors
        histories, queries = batch.histories(vectors.events), batch.queries(vectors.targets)
        for stretch in self.memory.stretches(histories, queries, every_boundary=every_boundary):
            row = stretch.query
            context = torch.cat([take(vectors.context, row), batch.context_dense.index_select(0, row)], dim=1)
            num_earlier = batch.num_earlier.index_select(0, row)
            logits = self.head(stretch.targets, stretch.answers, num_earlier, context)
            yield StretchLogits(logits, row, stretch)

    def no_memories(self, num_users: int) -> MemoryState:
        """Return the memories of users with no history; raises ConfigError if the window is the whole history."""
        return self.memory.initial(num_users, self.features.events)

    def fold(self, memories: MemoryState, histories: Histories) -> MemoryState:
        """Return the memories with events added; the keys of `histories` are embedding rows by feature."""
        return self.memory.fold(memories, histories, self.embedding.events)

    def score(self, memories: MemoryState, candidates: Candidates) -> Float[Tensor, " candidate"]:
        """Return the logit of a click for each candidate, from its user's memory alone."""
        if not len(candidates.user):
            return candidates.context_dense.new_zeros(0)
        shape = memories.window_gap.shape
        rows = {name: memories.window[name].flatten() for name in self.features.events}
        vectors = self.embedding(rows, memories.window_gap.flatten(), candidates.targets, candidates.context)
        embedded = replace(memories, window={**memories.window, TOKENS: vectors.events.view(*shape, -1)})
        answers = self.memory.answer(embedded, candidates.queries(vectors.targets))
        context = torch.cat([vectors.context, candidates.context_dense], dim=1)
        logits: Tensor = self.head(vectors.targets, answers, memories.num_events[candidates.user], context)
        return logits

    def writing_weights(self) -> dict[str, Tensor]:
        """Return, by name, the weights that determine what is written to memories: all others only read them."""
        tables = {f"embedding.{name}" for name in self.embedding.event_weights()}
        modules = tuple(f"memory.{name}." for name in self.memory.writing_modules())
        weights = self.state_dict()
        return {name: weight for name, weight in weights.items() if name in tables or name.startswith(modules)}


class _Head(nn.Module):
    """A perceptron on the target, the answers, their products with the target, the history length and the context."""

    def __init__(self, config: ClickHead, token_dim: int, memory: UserMemory, num_context: int) -> None:
        super().__init__()
        self.attended = memory.attended
        dims = [(1 + len(self.attended)) * token_dim + memory.num_features + 1 + num_context, *config.hidden_dims]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(dims):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(dims[-1], 1))

    def forward(self, target: Tensor, answers: Tensor, num_earlier: Tensor, context: Tensor) -> Tensor:
        products = [answers[:, vector] * target for vector in self.attended]
        log_length = torch.log1p(num_earlier.to(target.dtype))[:, None]
        logits: Tensor = self.layers(torch.cat([target, answers, *products, log_length, context], dim=1))
        return logits.squeeze(1)
