"""Attention over slots and over the window equals loops in NumPy, query by query."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from rm_rec.attention import NullAttention
from rm_rec.config import Window
from rm_rec.machines.base import Slots
from rm_rec.query_blocks import group_queries
from rm_rec.readers import build_reader
from rm_rec.readers.attention import AttentionReader
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.window import WindowSource, _look_up
from tests.support.fakes import scrambled

DIM, LENGTH, HEADS = 8, 4, 2


def null_attention(
    attention: NullAttention, query: Tensor, keys: list[Tensor], values: list[Tensor], biases: list[np.ndarray]
) -> np.ndarray:
    """For each head: values under a softmax with the null's logit; then each head's log(1 + sum(exp(logit - null)))."""
    heads = attention.num_heads
    q = (attention.query.weight @ query).detach().numpy().astype(np.float64).reshape(heads, -1)
    null = attention.null_logit.detach().numpy().astype(np.float64)
    size = q.shape[1]
    answer, weights = np.zeros((heads, size)), np.zeros(heads)
    for head in range(heads):
        parts = []
        for key, value, bias in zip(keys, values, biases, strict=True):
            k = (attention.key.weight @ key).detach().numpy().astype(np.float64).reshape(heads, size)[head]
            v = (attention.value.weight @ value).detach().numpy().astype(np.float64).reshape(heads, size)[head]
            parts.append((math.exp(float(q[head] @ k) / math.sqrt(size) + bias[head] - null[head]), v))
        total = 1.0 + sum(weight for weight, _ in parts)
        for weight, v in parts:
            answer[head] += weight / total * v
        weights[head] = math.log(total)
    return np.concatenate([answer.reshape(-1), weights])


@torch.no_grad()
def test_slot_attention_is_its_formula() -> None:
    slot_dim = 6
    reader = scrambled(build_reader(AttentionReader(num_heads=HEADS), DIM, slot_dim), std=0.7)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 2, DIM, generator=generator)
    keys, values = torch.randn(2, 3, 4, slot_dim, generator=generator).unbind(0)
    valid = torch.tensor([[True] * 4, [False, True, False, True], [False] * 4])
    found = reader(queries, Slots(keys, values, valid))
    assert found.shape == (3, 2, reader.num_features)
    for block in range(3):
        real = [slot for slot in range(4) if valid[block, slot]]
        for query in range(2):
            expected = null_attention(
                reader.attention,
                queries[block, query],
                [keys[block, slot] for slot in real],
                [values[block, slot] for slot in real],
                [np.zeros(HEADS)] * len(real),
            )
            np.testing.assert_allclose(found[block, query].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_nothing_to_attend_to_is_answered_by_zero() -> None:
    reader = scrambled(build_reader(AttentionReader(num_heads=HEADS), DIM, 6))
    slots = Slots(torch.ones(1, 3, 6), torch.ones(1, 3, 6), torch.zeros(1, 3, dtype=torch.bool))
    assert not reader(torch.ones(1, 2, DIM), slots).any()


@torch.no_grad()
def test_three_like_slots_weigh_more_than_one() -> None:
    reader = scrambled(build_reader(AttentionReader(num_heads=HEADS), DIM, 6))
    weights = []
    for num_slots in (1, 3):
        valid = torch.ones(1, num_slots, dtype=torch.bool)
        slots = Slots(torch.ones(1, num_slots, 6), torch.ones(1, num_slots, 6), valid)
        weights.append(reader(torch.ones(1, 1, DIM), slots)[0, 0, -HEADS:])
    torch.testing.assert_close(weights[1].expm1(), 3 * weights[0].expm1(), atol=1e-5, rtol=1e-5)


def test_however_strong_a_key_its_weight_and_gradients_are_finite() -> None:
    reader = scrambled(build_reader(AttentionReader(num_heads=HEADS), DIM, 6))
    queries = (1e3 * torch.ones(1, 1, DIM)).requires_grad_()
    for sign in (1.0, -1.0):
        keys = sign * 1e3 * torch.ones(1, 2, 6)
        answer = reader(queries, Slots(keys, keys, torch.ones(1, 2, dtype=torch.bool)))
        assert torch.isfinite(answer).all()
        answer.sum().backward()
        assert queries.grad is not None
        assert torch.isfinite(queries.grad).all()


WINDOWS: list[tuple[dict[str, Any], int]] = [  # and how many segments a stretch keeps for it
    ({"kind": "segments", "num_segments": 0}, 0),
    ({"kind": "segments", "num_segments": 2}, 0),
    ({"kind": "segments", "num_segments": 2}, 2),
    ({"kind": "last_events", "num_events": 5}, 0),
    ({"kind": "last_events", "num_events": 5}, 2),
    ({"kind": "last_events", "num_events": 8}, 1),
    ({"kind": "whole_history"}, 0),
]


def in_window(config: dict[str, Any], num_visible: int) -> range:
    """Which events of a stretch a query sees, from the window's own words."""
    if config["kind"] == "whole_history":
        return range(num_visible)
    if config["kind"] == "last_events":
        return range(max(num_visible - config["num_events"], 0), num_visible)
    return range(max(num_visible // LENGTH - config["num_segments"], 0) * LENGTH, num_visible)


@torch.no_grad()
@pytest.mark.parametrize(("config", "num_folded"), WINDOWS, ids=str)
def test_window_attention_is_its_formula(config: dict[str, Any], num_folded: int) -> None:
    settings: Window = TypeAdapter(Window).validate_python(config | {"num_heads": HEADS})
    window = scrambled(WindowSource(settings, DIM, LENGTH), std=0.3)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 6, LENGTH, DIM, generator=generator)
    time = torch.randint(0, 5000, (3, 6 * LENGTH), generator=generator).cumsum(1)
    seen = [24 - 1, num_folded * LENGTH, 13, 14, 15, 12, 11, 20, 13]
    user = [0, 0, 1, 1, 1, 1, 2, 2, 1]
    lead = [0, 0, 2 * LENGTH]  # so many first places of the last user are empty
    asked = [int(time[u, n - 1] if n else 0) + late for u, n, late in zip(user, seen, range(9), strict=True)]
    targets = torch.randn(len(seen), DIM, generator=generator)
    blocks = group_queries(
        tokens=targets,
        user=torch.tensor(user),
        boundary=torch.tensor(seen) // LENGTH - num_folded,
        num_visible=torch.tensor(seen),
        time=torch.tensor(asked),
        keys={},
    )
    segments = Segments(
        tokens=tokens, valid=torch.ones(3, 6, LENGTH, dtype=torch.bool), time=time.view(3, 6, LENGTH), keys={}
    )
    stretch = Stretch(segments=segments, num_folded=num_folded, lead=torch.tensor(lead))
    found = blocks.layout.scatter(window.answer(blocks, {}, stretch))
    for query in range(len(seen)):
        visible = [n for n in in_window(config, seen[query]) if n >= lead[user[query]]]
        events = [tokens[user[query]].flatten(0, 1)[n] for n in visible]
        ages = [asked[query] - int(time[user[query], n]) for n in visible]
        biases = [window.age_bias[(age + 1).bit_length() - 1].numpy().astype(np.float64) for age in ages]
        expected = null_attention(window.attention, targets[query], events, events, biases)
        np.testing.assert_allclose(found[query].numpy(), expected, atol=1e-5)


def test_the_small_tables_look_up_has_the_gradient_of_an_embedding() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 5, (3, 4, 7), generator=generator)  # row 5 is never looked up
    weights = torch.randn(3, 4, 7, 2, generator=generator)
    gradients = []
    for look_up in (_look_up, lambda table, rows: torch.nn.functional.embedding(rows, table)):
        table = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (look_up(table, rows) * weights).sum().backward()
        gradients.append(table.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
