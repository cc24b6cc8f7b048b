"""Embedding of ids: one collection of tables for events, targets and context."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rm_rec.config import FeatureSpace
from rm_rec.embedding_tables import EmbeddingTables, Table
from rm_rec.time_bins import NUM_TIME_BINS

_GAP = "time_gap"  # the table of binned time gaps between a user's events


@dataclass(frozen=True)
class Embedded:
    """The vectors of a batch, from one look-up."""

    events: Float[Tensor, "event dim"]  # sums over the event's features and its time gap
    content: Float[Tensor, "event dim"]  # sums over the event's features alone
    targets: Float[Tensor, "query dim"]
    context: Float[Tensor, "query context_dim"]


class FeatureEmbedding(nn.Module):
    """Sums the embeddings of a token's features; events and targets share tables, so their vectors are comparable.

    After `give_sparse_gradients`, the gradient of a table has a row for each id of the batch: its cost does not depend
    on the table's size, but the table needs an optimizer that reads such gradients (`rm_rec.row_optimizers`).

    Tables are a TorchRec EmbeddingCollection, or with `shardable=False` plain torch with the same weights and results.
    """

    def __init__(self, features: FeatureSpace, token_dim: int, std: float, *, shardable: bool = True) -> None:
        super().__init__()
        self.features = features
        tables = [Table(name, rows, token_dim) for name, rows in features.rows.items()]
        tables.append(Table(_GAP, NUM_TIME_BINS + 1, token_dim))
        self.collection: nn.Module
        if shardable:
            from rm_rec.torchrec_tables import embedding_collection  # late: it takes seconds to import

            self.collection = embedding_collection(tables, std)
        else:
            self.collection = EmbeddingTables(tables, std)
        self._shardable = shardable
        self._tables = {table.name for table in tables}

    def give_sparse_gradients(self) -> None:
        """Let all tables have sparse gradients."""
        for table in self.collection.modules():
            if isinstance(table, nn.Embedding):
                table.sparse = True

    def forward(
        self,
        events: Mapping[str, Int[Tensor, " event"]],
        gaps: Int[Tensor, " event"],
        targets: Mapping[str, Int[Tensor, " query"]],
        context: Mapping[str, Int[Tensor, " query"]],
    ) -> Embedded:
        """Embed events and targets as sums of their features' embeddings, and context as the concatenation."""
        ids = {f"event.{name}": events[name] for name in self.features.events}
        ids[f"event.{_GAP}"] = gaps
        ids |= {f"target.{name}": targets[name] for name in self.features.targets}
        ids |= {f"context.{name}": context[name] for name in self.features.context}
        vectors = self._look_up(ids)
        content = _sum([vectors[f"event.{name}"] for name in self.features.events])
        target_tokens = _sum([vectors[f"target.{name}"] for name in self.features.targets])
        context_vectors = [vectors[f"context.{name}"] for name in self.features.context]
        return Embedded(
            events=content + vectors[f"event.{_GAP}"],
            content=content,
            targets=target_tokens,
            context=torch.cat([target_tokens[:, :0], *context_vectors], dim=1),
        )

    def events(
        self, events: Mapping[str, Int[Tensor, " event"]], gaps: Int[Tensor, " event"]
    ) -> Float[Tensor, "event dim"]:
        """Embed events alone, as `forward` does."""
        ids = {f"event.{name}": events[name] for name in self.features.events} | {f"event.{_GAP}": gaps}
        vectors = self._look_up(ids)
        return _sum([vectors[name] for name in ids])

    def content(self, events: Mapping[str, Int[Tensor, " event"]]) -> Float[Tensor, "event dim"]:
        """Embed events by their features alone, without the time gap."""
        vectors = self._look_up({f"event.{name}": events[name] for name in self.features.events})
        return _sum([vectors[f"event.{name}"] for name in self.features.events])

    def event_weights(self) -> list[str]:
        """Return the names of this module's weights that events are embedded with."""
        return [f"collection.embeddings.{name}.weight" for name in (*self.features.events, _GAP)]

    def _look_up(self, ids: dict[str, Tensor]) -> dict[str, Tensor]:
        """Look up ids by "owner.table": all of one table at once, so that it gets one gradient."""
        keys_of: dict[str, list[str]] = {}
        for key in ids:
            keys_of.setdefault(key.partition(".")[2], []).append(key)
        joined = {table: torch.cat([ids[key] for key in keys]) for table, keys in keys_of.items()}
        if self._shardable:
            from rm_rec.torchrec_tables import look_up

            vectors = look_up(self.collection, self._tables, joined)
        else:
            vectors = self.collection(joined)
        return {
            key: part
            for table, keys in keys_of.items()
            for key, part in zip(keys, torch.split(vectors[table], [len(ids[key]) for key in keys]), strict=True)
        }


def _sum(vectors: list[Tensor]) -> Tensor:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total
