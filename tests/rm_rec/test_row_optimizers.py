"""Optimizers of touched rows: equal to dense ones where every row is touched, and silent where none is."""

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn

from rm_rec.row_optimizers import LazyAdam, RowOptimizer, RowWiseAdagrad, sum_of_rows

ROWS, DIM = 7, 4
START = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))


def table(sparse: bool = True) -> nn.Embedding:
    return nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=sparse)


def step(embedding: nn.Embedding, optimizer: torch.optim.Optimizer, ids: list[int], seed: int) -> None:
    """Take a step of a loss in which each use of a row has weights of its own."""
    optimizer.zero_grad(set_to_none=True)
    weights = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(seed))
    (embedding(torch.tensor(ids)) * weights).sum().backward()
    optimizer.step()


def test_lazy_adam_equals_adam_where_every_row_is_touched() -> None:
    ours, dense = table(), table(sparse=False)
    lazy, adam = LazyAdam(ours.parameters(), lr=0.1), torch.optim.Adam(dense.parameters(), lr=0.1)
    for seed in range(5):
        ids = [*range(ROWS), 2, 2, seed]
        step(ours, lazy, ids, seed)
        step(dense, adam, ids, seed)
        torch.testing.assert_close(ours.weight, dense.weight)


def test_lazy_adam_equals_pytorchs_sparse_adam() -> None:
    ours, theirs = table(), table()
    lazy, sparse = LazyAdam(ours.parameters(), lr=0.1), torch.optim.SparseAdam(theirs.parameters(), lr=0.1)
    for seed, ids in enumerate(([1, 3, 3], [3, 6], [1], [0, 3, 1, 1])):
        step(ours, lazy, ids, seed)
        step(theirs, sparse, ids, seed)
        torch.testing.assert_close(ours.weight, theirs.weight)


def test_adagrad_equals_fbgemms() -> None:
    ours, ids = table(), [[1, 3, 3], [3, 6], [1], [0, 3, 1, 1]]
    optimizer = RowWiseAdagrad(ours.parameters(), lr=0.1, eps=1e-8)
    theirs = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        eps=1e-8,
    )
    (fused,) = theirs.split_embedding_weights()
    fused.data.copy_(START)
    for seed, touched in enumerate(ids):
        step(ours, optimizer, touched, seed)
        weights = torch.randn(len(touched), DIM, generator=torch.Generator().manual_seed(seed))
        vectors = theirs(torch.tensor(touched), torch.arange(len(touched) + 1))
        (vectors * weights).sum().backward()
        torch.testing.assert_close(ours.weight.detach(), fused.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [LazyAdam, RowWiseAdagrad])
def test_other_rows_stay_as_they_are(optimizer: type[RowOptimizer]) -> None:
    embedding = table()
    ours = optimizer(embedding.parameters())
    for seed in range(3):
        step(embedding, ours, [2, 5], seed)
    untouched = [0, 1, 3, 4, 6]
    assert torch.equal(embedding.weight[untouched], START[untouched])
    assert (embedding.weight[[2, 5]] != START[[2, 5]]).all()
    for values in ours.state[embedding.weight].values():
        if values.dim():
            assert not values[untouched].any()
            assert values[[2, 5]].any()


@pytest.mark.parametrize("optimizer", [LazyAdam, RowWiseAdagrad])
def test_a_dense_gradient_is_refused_and_none_is_passed_over(optimizer: type[RowOptimizer]) -> None:
    embedding = table(sparse=False)
    ours = optimizer(embedding.parameters())
    ours.step()
    assert torch.equal(embedding.weight, START)
    with pytest.raises(TypeError, match="give_sparse_gradients"):
        step(embedding, ours, [2], 0)


@pytest.mark.parametrize("ids", [[], [4], [6, 0, 6, 6, 2]])
def test_rows_are_summed_as_pytorch_does(ids: list[int]) -> None:
    gradient = torch.sparse_coo_tensor(
        torch.tensor([ids], dtype=torch.int64), torch.randn(len(ids), DIM), (ROWS, DIM), check_invariants=True
    )
    rows, sums = sum_of_rows(gradient)
    expected: Tensor = gradient.coalesce()
    assert torch.equal(rows, expected.indices()[0])
    torch.testing.assert_close(sums, expected.values())
