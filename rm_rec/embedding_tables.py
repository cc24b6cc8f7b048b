"""Embedding tables, in plain torch: for models that are read and not trained, as TorchRec takes seconds to import."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Table:
    """Name and size of one embedding table."""

    name: str
    num_rows: int
    dim: int


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

    def forward(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings of ids, by table."""
        return {table: self.embeddings[table](rows) for table, rows in ids.items()}
