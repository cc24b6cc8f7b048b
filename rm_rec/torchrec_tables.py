"""Embedding tables that TorchRec can shard: an EmbeddingCollection. Nothing else imports torchrec."""

from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from rm_rec.embedding_tables import Table


def embedding_collection(tables: Sequence[Table], std: float) -> EmbeddingCollection:
    """Return a collection of these tables; initial embeddings are normal, with standard deviation `std`."""
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=table.name,
                embedding_dim=table.dim,
                num_embeddings=table.num_rows,
                feature_names=[table.name],
                init_fn=lambda weight: nn.init.normal_(weight, std=std),
            )
            for table in tables
        ]
    )


def look_up(collection: nn.Module, tables: Set[str], ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Look up ids by table, in one call; those of a table are one jagged row, since their numbers differ.

    `tables` are all tables of the collection, which TorchRec may have sharded.
    """
    nothing = next(iter(ids.values()))[:0]
    ids = {**ids, **dict.fromkeys(tables - set(ids), nothing)}  # the collection requires ids of all its tables
    values = list(ids.values())
    lengths = torch.tensor([len(v) for v in values], dtype=torch.int32, device=values[0].device)
    jagged = KeyedJaggedTensor(keys=list(ids), values=torch.cat(values), lengths=lengths)
    return {name: vectors.values() for name, vectors in collection(jagged).items()}
