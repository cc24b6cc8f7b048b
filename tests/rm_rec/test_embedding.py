"""One table a feature, shared by events and targets; ids are exact."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rm_rec.config import FeatureSpace
from rm_rec.embedding import FeatureEmbedding
from rm_rec.model import ClickModel
from rm_rec.time_bins import NUM_TIME_BINS
from tests.support.fakes import FEATURES, click_model, model_config, user_batch


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.fixture(params=[True, False], ids=["shardable", "plain"])
def embedding(request: pytest.FixtureRequest) -> FeatureEmbedding:
    return FeatureEmbedding(FEATURES, token_dim=3, std=1.0, shardable=request.param)


def table(embedding: FeatureEmbedding, name: str) -> Tensor:
    weight: Tensor = embedding.collection.embeddings[name].weight
    return weight


def test_tokens_are_sums_of_their_features_rows_and_context_lies_side_by_side(embedding: FeatureEmbedding) -> None:
    found = embedding(
        {"category": ids(0, 6), "item": ids(49, 2)},
        ids(NUM_TIME_BINS, 5),
        {"item": ids(49, 1, 0), "category": ids(3, 4, 5)},
        {"hour": ids(4, 0, 1)},
    )
    item, category, gap, hour = (table(embedding, name) for name in ("item", "category", "time_gap", "hour"))
    torch.testing.assert_close(found.content, item[[49, 2]] + category[[0, 6]])
    torch.testing.assert_close(found.events, found.content + gap[[NUM_TIME_BINS, 5]])
    torch.testing.assert_close(found.targets, item[[49, 1, 0]] + category[[3, 4, 5]])
    torch.testing.assert_close(found.context, hour[[4, 0, 1]])


def test_events_and_targets_share_one_table(embedding: FeatureEmbedding) -> None:
    names = [name for name, _ in embedding.named_parameters()]
    assert sorted(names) == [
        f"collection.embeddings.{name}.weight" for name in ("category", "hour", "item", "time_gap")
    ]
    no_category = {"category": ids(0)}
    found = embedding({"item": ids(7)} | no_category, ids(0), {"item": ids(7)} | no_category, {"hour": ids(0)})
    torch.testing.assert_close(found.events - table(embedding, "time_gap")[0], found.targets)
    torch.testing.assert_close(found.content, found.targets)


def test_events_embedded_alone_are_as_they_are_beside_targets(embedding: FeatureEmbedding) -> None:
    events, gaps = {"category": ids(0, 6), "item": ids(49, 2)}, ids(NUM_TIME_BINS, 5)
    found = embedding(events, gaps, {"item": ids(49), "category": ids(3)}, {"hour": ids(4)})
    torch.testing.assert_close(embedding.events(events, gaps), found.events)
    torch.testing.assert_close(embedding.content(events), found.content)
    assert not torch.equal(found.events, found.content)


def test_an_item_learns_as_an_event_and_as_a_target() -> None:
    model = click_model()
    batch = user_batch([6], [[6]])
    batch = replace(
        batch,
        events=batch.events | {"item": torch.full((6,), 11)},
        targets=batch.targets | {"item": ids(22)},
    )
    model(batch).sum().backward()
    grad = table(model.embedding, "item").grad
    assert grad is not None
    assert torch.nonzero(grad.abs().sum(dim=1)).flatten().tolist() == [11, 22]
    # Where event and target are one item, its row learns the sum of both.
    as_both = torch.autograd.grad(
        model(replace(batch, targets=batch.targets | {"item": ids(11)})).sum(), table(model.embedding, "item")
    )[0]
    assert torch.nonzero(as_both.abs().sum(dim=1)).flatten().tolist() == [11]


def test_ids_beyond_what_float32_can_count_are_exact() -> None:
    rows = 2**24 + 8
    space = FeatureSpace(rows={"item": rows}, events=("item",), targets=("item",))
    embedding = FeatureEmbedding(space, token_dim=1, std=0.1)
    weight = table(embedding, "item")
    wanted = ids(2**24 + 1, 2**24, 2**24 + 2, 2**24 + 3, 2**24 + 7)
    with torch.no_grad():
        weight[-16:, 0] = torch.arange(16.0)
        targets = embedding({"item": wanted}, torch.zeros(5, dtype=torch.int64), {"item": wanted}, {}).targets
    assert targets[:, 0].tolist() == [float(i - rows + 16) for i in wanted.tolist()]


def test_embeddings_start_with_the_spread_of_the_config() -> None:
    torch.manual_seed(0)
    space = FeatureSpace(rows={"item": 5000}, events=("item",), targets=("item",))
    for std in (0.02, 0.5):
        weight = table(FeatureEmbedding(space, token_dim=8, std=std), "item")
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.05)


def test_features_of_targets_alone_and_of_events_alone_are_embedded() -> None:
    space = FeatureSpace(
        rows={"item": 9, "action": 3, "price": 4}, events=("item", "action"), targets=("item", "price")
    )
    model = click_model(model_config(), space)
    assert torch.isfinite(model(user_batch([9, 2], [[9, 4], [0]], features=space))).all()


def test_tables_that_cannot_be_sharded_have_the_same_weights_vectors_and_gradients() -> None:
    made = {}
    for shardable in (True, False):
        torch.manual_seed(5)
        model = ClickModel(model_config(), FEATURES, shardable=shardable)
        vectors = model.eval().embed(user_batch([6, 3], [[6, 2], [1]]))
        sum((part**2).sum() for part in vars(vectors).values()).backward()
        made[shardable] = (model.state_dict(), vars(vectors), {n: w.grad for n, w in model.named_parameters()})
    for shardable, plain in zip(made[True], made[False], strict=True):
        assert list(shardable) == list(plain)
        for name, value in shardable.items():
            assert (value is None and plain[name] is None) or torch.equal(value, plain[name]), name
    assert any(gradient is not None and gradient.any() for gradient in made[True][2].values())
