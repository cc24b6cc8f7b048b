"""The models learn what they should, and nothing where there is nothing to learn."""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.model import ClickModel
from tests.support.fakes import model_config, user_batch

SPACE = FeatureSpace(rows={"item": 24}, events=("item",), targets=("item",))


def fit(config: ModelConfig, batches: Callable[[int], UserBatch], steps: int, lr: float = 1e-2) -> ClickModel:
    torch.manual_seed(0)
    model = ClickModel(config, SPACE)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        batch = batches(step)
        binary_cross_entropy_with_logits(model(batch), batch.label).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def auc(model: ClickModel, batch: UserBatch) -> float:
    return float(roc_auc_score(batch.label.numpy(), model(batch).numpy()))


def test_32_impressions_are_learnt_by_heart() -> None:
    batch = user_batch([25] * 8, [[25, 20, 11, 6]] * 8, features=SPACE)
    assert 0.2 < batch.label.mean() < 0.8
    model = fit(model_config(), lambda step: batch, steps=150)
    with torch.no_grad():
        loss = binary_cross_entropy_with_logits(model(batch), batch.label)
    assert float(loss) < 0.05


SIGNS, LATER = 4, 220  # items that can be first; events after it, which say nothing


def planted(num_users: int, seed: int) -> UserBatch:
    """One event near the start decides: the target is clicked if it belongs to the sign that was seen then."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(SIGNS, (num_users,), generator=generator)
    noise = torch.randint(2 * SIGNS, SPACE.rows["item"], (num_users, LATER + 4), generator=generator)
    noise[torch.arange(num_users), torch.randint(4, (num_users,), generator=generator)] = sign
    asked = torch.randint(SIGNS, (num_users, 4), generator=generator)
    return on_user_histories(noise, asked + SIGNS, (asked == sign[:, None]).float())


def on_user_histories(items: Tensor, targets: Tensor, label: Tensor) -> UserBatch:
    num_users, num_events = items.shape
    num_impressions = targets.shape[1]
    return UserBatch(
        event_lengths=torch.full((num_users,), num_events),
        event_time=torch.arange(num_events).repeat(num_users),
        events={"item": items.flatten()},
        impression_lengths=torch.full((num_users,), num_impressions),
        impression_time=torch.full((num_users * num_impressions,), num_events),
        num_earlier=torch.full((num_users * num_impressions,), num_events),
        targets={"item": targets.flatten()},
        context={},
        context_dense=torch.zeros(num_users * num_impressions, 0),
        label=label.flatten(),
    )


def planted_config(machine: dict[str, Any]) -> ModelConfig:
    head = {"hidden_dims": (32,)}
    return model_config(token_dim=16, segment_length=16, machine=machine, head=head, token_dropout=0.0)


def test_what_happened_long_ago_is_remembered() -> None:
    held_out = planted(400, seed=10**6)
    found = {
        machine["kind"]: auc(fit(planted_config(machine), lambda step: planted(64, step), steps=200), held_out)
        for machine in (
            {"kind": "slot_gru", "num_slots": 4, "slot_dim": 16},
            {"kind": "associative", "num_slots": 4, "slot_dim": 16},
            {"kind": "mean_pool"},
            {"kind": "none"},
        )
    }
    assert found["none"] < 0.55, "the window does not reach back"
    for kind in ("slot_gru", "associative"):
        assert found[kind] > 0.95, found
        assert found[kind] > found["mean_pool"] + 0.1, found


def test_shuffled_labels_teach_nothing_about_others() -> None:
    def shuffled(num_users: int, seed: int) -> UserBatch:
        generator = torch.Generator().manual_seed(seed)
        batch = user_batch([12] * num_users, [[12, 9, 5, 2]] * num_users, seed=seed, features=SPACE)
        order = torch.randperm(len(batch.label), generator=generator)
        return UserBatch(**(vars(batch) | {"label": batch.label[order]}))

    train, held_out = shuffled(64, seed=1), shuffled(1500, seed=2)
    model = fit(model_config(), lambda step: train, steps=60)
    assert auc(model, train) > 0.6, "it did learn its own by heart"
    # 6,000 impressions: one standard deviation of the AUC is 0.0075.
    assert abs(auc(model, held_out) - 0.5) < 0.03
