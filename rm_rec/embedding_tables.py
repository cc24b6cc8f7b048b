"""Embedding tables, in plain torch: for models that are read and not trained, as TorchRec takes seconds to import."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Table:
    """One embedding table, and the names of the features whose ids are its rows."""

    name: str
    num_rows: int
    dim: int
    features: tuple[str, ...]


class EmbeddingTables(nn.Module):
    """The tables of TorchRec's EmbeddingCollection: weights and results are equal, but tables cannot be sharded.

    Initial embeddings are normal, with standard deviation `std`.
    """

    def __init__(self, tables: Sequence[Table], std: float) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict()
        for table in tables:
            embedding = nn.Embedding(table.num_rows, table.dim)
            nn.init.normal_(embedding.weight, std=std)
            self.embeddings[table.name] = embedding
        self._table_of = {feature: table.name for table in tables for feature in table.features}

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings of each feature's ids."""
        return {feature: self.embeddings[self._table_of[feature]](rows) for feature, rows in ids.items()}
