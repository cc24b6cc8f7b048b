"""Small models and batches, for tests."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.machines import MACHINES
from rm_rec.model import ClickModel

M = TypeVar("M", bound=nn.Module)

KINDS = sorted(MACHINES)
ENCODERS = ("none", "transformer")
READERS: dict[str, dict[str, Any]] = {
    "attention": {"kind": "attention", "num_heads": 2},
    "multi_hop": {"kind": "multi_hop", "num_hops": 3},
    "multi_hop_layer_wise": {"kind": "multi_hop", "num_hops": 2, "tying": "layer_wise"},
    "supporting_facts": {"kind": "supporting_facts", "num_hops": 2},
    "hierarchical": {"kind": "hierarchical", "num_queries": 3},
}
# Sizes under which every weight has a gradient, and every event of a short history is still seen, after some segments.
SMALL_MACHINES: dict[str, dict[str, Any]] = {
    "slot_gru": {"num_slots": 3, "slot_dim": 6},
    "associative": {"num_slots": 3, "slot_dim": 6},
    "learned_queries": {"num_slots": 3, "slot_dim": 6},
    "expire_span": {"max_span": 16, "ramp": 32},
    "hpmn": {"num_layers": 4},
    "count_sketch": {"num_buckets": 16, "sharpness": 3.0},
}
FEATURES = FeatureSpace(
    rows={"item": 50, "category": 7, "hour": 5},
    events=("item", "category"),
    targets=("item", "category"),
    context=("hour",),
    num_context_dense=2,
)
PER_USER = ("event_lengths", "impression_lengths")
PER_EVENT = ("event_time", "events")
PER_IMPRESSION = ("impression_time", "num_earlier", "targets", "context", "context_dense", "label")


def model_config(**settings: Any) -> ModelConfig:
    """Settings of a small model: segments of 4 events."""
    small: dict[str, Any] = {
        "token_dim": 8,
        "segment_length": 4,
        "machine": "associative",
        "encoder": "none",
        "window": {"kind": "segments"},
        "reader": READERS["attention"],
        "head": {"hidden_dims": (16,)},
    } | settings
    for name in ("machine", "encoder"):
        if isinstance(small[name], str):
            small[name] = {"kind": small[name]}
    if set(small["machine"]) == {"kind"}:
        small["machine"] |= SMALL_MACHINES.get(small["machine"]["kind"], {})
    return ModelConfig.model_validate(small)


def click_model(config: ModelConfig | None = None, features: FeatureSpace = FEATURES, seed: int = 0) -> ClickModel:
    """A small model with scrambled weights, for evaluation."""
    return scrambled(ClickModel(config or model_config(), features), seed).eval()


def scrambled(module: M, seed: int = 0, std: float = 0.3) -> M:
    """Draw every weight: what starts at zero must be seen to matter, or to be right in not mattering."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return module


def user_batch(
    event_lengths: Sequence[int],
    num_earlier: Sequence[Sequence[int]],
    seed: int = 0,
    features: FeatureSpace = FEATURES,
) -> UserBatch:
    """Users with so many events, each with impressions that see so many of them; the rest is drawn."""
    generator = torch.Generator().manual_seed(seed)

    def ids(names: Sequence[str], count: int) -> dict[str, Tensor]:
        return {name: torch.randint(features.rows[name], (count,), generator=generator) for name in names}

    times, seen_at = [], []
    for length, impressions in zip(event_lengths, num_earlier, strict=True):
        time = torch.randint(0, 40, (length + 1,), generator=generator).cumsum(0) + 1_600_000_000
        times.append(time[:length])
        seen_at += [int(time[max(seen - 1, 0)]) + 1 + seen for seen in impressions]
    num_events, num_impressions = sum(event_lengths), len(seen_at)
    return UserBatch(
        event_lengths=torch.tensor(event_lengths, dtype=torch.int64),
        event_time=torch.cat(times) if times else torch.zeros(0, dtype=torch.int64),
        events=ids(features.events, num_events),
        impression_lengths=torch.tensor([len(seen) for seen in num_earlier], dtype=torch.int64),
        impression_time=torch.tensor(seen_at, dtype=torch.int64),
        num_earlier=torch.tensor([n for seen in num_earlier for n in seen], dtype=torch.int64),
        targets=ids(features.targets, num_impressions),
        context=ids(features.context, num_impressions),
        context_dense=torch.randn(num_impressions, features.num_context_dense, generator=generator),
        label=torch.randint(2, (num_impressions,), generator=generator).float(),
    )


def ragged_batch() -> UserBatch:
    """Histories empty, shorter than a segment of 4, whole and long; impressions before, at and after boundaries."""
    return user_batch(
        [0, 3, 4, 27, 16, 5, 0],
        [[0, 0], [3, 0, 1], [4, 3], [27, 0, 11, 12, 13, 24, 27], [16, 15, 8], [], []],
    )


def rows_of(lengths: Tensor, users: Sequence[int]) -> Tensor:
    """Where the rows of some users lie, in the users' order."""
    first = lengths.cumsum(0) - lengths
    rows = [torch.arange(int(first[user]), int(first[user] + lengths[user])) for user in users]
    return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)


def of_users(batch: UserBatch, users: Sequence[int]) -> UserBatch:
    """The batch of some of its users, in the order given."""
    events, impressions = rows_of(batch.event_lengths, users), rows_of(batch.impression_lengths, users)
    rows = dict.fromkeys(PER_USER, torch.tensor(users, dtype=torch.int64))
    rows |= dict.fromkeys(PER_EVENT, events) | dict.fromkeys(PER_IMPRESSION, impressions)
    return _taken(batch, rows)


def with_impressions(batch: UserBatch, order: Tensor) -> UserBatch:
    """The batch with its impressions in another order, each still its user's."""
    return _taken(batch, dict.fromkeys(PER_IMPRESSION, order))


def _taken(batch: UserBatch, rows: dict[str, Tensor]) -> UserBatch:
    def take(value: Any, index: Tensor) -> Any:
        return {k: v[index] for k, v in value.items()} if isinstance(value, dict) else value[index]

    fields = {name: getattr(batch, name) for name in (*PER_USER, *PER_EVENT, *PER_IMPRESSION)}
    return UserBatch(**{name: take(v, rows[name]) if name in rows else v for name, v in fields.items()})
