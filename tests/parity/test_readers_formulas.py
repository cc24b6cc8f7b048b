"""Readers equal loops in NumPy, written from the formulas in their docstrings."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from rm_rec.attention import NullAttention
from rm_rec.config import Reader as ReaderConfig
from rm_rec.config.readers import HierarchicalReader, MultiHopReader, SupportingFactsReader
from rm_rec.machines.base import Slots
from rm_rec.readers import build_reader
from rm_rec.readers.hierarchical import Hierarchical
from rm_rec.readers.multi_hop import MultiHop
from rm_rec.readers.supporting_facts import SupportingFacts, weak_support
from tests.support.fakes import READERS, scrambled

DIM = 6
BLOCKS, QUERIES, SLOTS = 4, 2, 5
VALID = torch.tensor([[True] * 5, [False, True, False, True, True], [False, False, True, False, False], [False] * 5])


def drawn(slot_dim: int, *, weighted: bool = True) -> tuple[Tensor, Slots, Tensor]:
    """Draw queries, slots and recent trajectories."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, BLOCKS, SLOTS, slot_dim, generator=generator).unbind(0)
    log_weight = torch.randn(BLOCKS, SLOTS, generator=generator) if weighted else None
    queries, recent = torch.randn(2, BLOCKS, QUERIES, DIM, generator=generator).unbind(0)
    return queries, Slots(keys, values, VALID, log_weight), recent


def numpy_of(values: Tensor) -> np.ndarray:
    return values.detach().numpy().astype(np.float64)


def real_slots(slots: Slots, block: int) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    """Keys, values and log weights of a block's valid slots."""
    real = [slot for slot in range(SLOTS) if slots.valid[block, slot]]
    weights = [0.0 if slots.log_weight is None else float(slots.log_weight[block, slot]) for slot in real]
    return [numpy_of(slots.keys[block, i]) for i in real], [numpy_of(slots.values[block, i]) for i in real], weights


def attention(
    asked: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray], weights: list[float], null: float
) -> tuple[np.ndarray, float]:
    """Values under a softmax with the null's logit, and log(1 + sum(exp(logit - null)))."""
    terms = [
        math.exp(float(asked @ key) / math.sqrt(DIM) + weight - null) for key, weight in zip(keys, weights, strict=True)
    ]
    total = 1.0 + sum(terms)
    read = np.zeros(DIM)
    for term, value in zip(terms, values, strict=True):
        read += term / total * value
    return read, math.log(total)


def padded(query: np.ndarray, slot_dim: int) -> np.ndarray:
    return np.concatenate([query, np.zeros(slot_dim)])[:slot_dim]


@torch.no_grad()
@pytest.mark.parametrize("slot_dim", [DIM - 2, DIM, DIM + 1])
@pytest.mark.parametrize("tying", ["adjacent", "layer_wise"])
def test_multi_hop_is_its_formula(tying: Any, slot_dim: int) -> None:
    hops = 3
    reader = scrambled(MultiHop(MultiHopReader(num_hops=hops, tying=tying), DIM, slot_dim), std=0.5)
    queries, slots, _ = drawn(slot_dim)
    found = reader(queries, slots)
    assert found.shape == (BLOCKS, QUERIES, reader.num_features)
    matrices = [numpy_of(layer.weight) for layer in reader.embeddings]
    null = numpy_of(reader.null_logit)
    for block in range(BLOCKS):
        keys, values, log_weights = real_slots(slots, block)
        for query in range(QUERIES):
            q = numpy_of(queries[block, query])
            if tying == "adjacent":
                step, first = np.eye(DIM), matrices[0] @ padded(q, slot_dim)
            else:
                assert reader.step is not None
                assert reader.question is not None
                step, first = numpy_of(reader.step.weight), numpy_of(reader.question.weight) @ q
            u, weights = first, []
            for hop in range(hops):
                a, c = (matrices[hop], matrices[hop + 1]) if tying == "adjacent" else matrices
                asked_null = float(null[hop] if tying == "adjacent" else null[0])
                o, weight = attention(u, [a @ x for x in keys], [c @ y for y in values], log_weights, asked_null)
                u = step @ u + o
                weights.append(weight)
            answer = u - np.linalg.matrix_power(step, hops) @ first
            np.testing.assert_allclose(found[block, query].numpy(), [*answer, *weights], atol=1e-4)


def test_adjacent_hops_share_one_hops_output_with_the_next_ones_input() -> None:
    reader = MultiHop(MultiHopReader(num_hops=3, tying="adjacent"), DIM, DIM)
    for hop in range(2):
        assert reader.output_embedding(hop) is reader.input_embedding(hop + 1)
        assert reader.input_embedding(hop) is not reader.input_embedding(hop + 1)
    assert sum(weight.numel() for weight in reader.parameters()) == 4 * DIM * DIM + 3
    # B = A^1: without it a question asks for nothing.
    queries, slots, _ = drawn(DIM, weighted=False)
    scrambled(reader)
    with torch.no_grad():
        reader.embeddings[0].weight.zero_()
        answers = reader(queries, slots)
        torch.testing.assert_close(answers[:, 0], answers[:, 1])


def test_layer_wise_hops_share_all_their_weights() -> None:
    reader = MultiHop(MultiHopReader(num_hops=3, tying="layer_wise"), DIM, DIM)
    for hop in range(2):
        assert reader.input_embedding(hop) is reader.input_embedding(hop + 1)
        assert reader.output_embedding(hop) is reader.output_embedding(hop + 1)
    assert reader.input_embedding(0) is not reader.output_embedding(0)
    assert sum(weight.numel() for weight in reader.parameters()) == 4 * DIM * DIM + 1


@torch.no_grad()
@pytest.mark.parametrize("slot_dim", [DIM - 2, DIM + 1])
def test_supporting_facts_is_its_formula(slot_dim: int) -> None:
    hops = 2
    reader = scrambled(SupportingFacts(SupportingFactsReader(num_hops=hops), DIM, slot_dim), std=0.7)
    queries, slots, _ = drawn(slot_dim)
    found = reader(queries, slots)
    asked, fact, wanted, value = (
        numpy_of(layer.weight) for layer in (reader.asked, reader.found, reader.looked_for, reader.value)
    )
    for block in range(BLOCKS):
        keys, values, log_weights = real_slots(slots, block)
        for query in range(QUERIES):
            x, left = asked @ numpy_of(queries[block, query]), set(range(len(keys)))
            picked_values, picked_scores = [np.zeros(DIM)] * hops, [0.0] * hops
            for hop in range(min(hops, len(keys))):
                scores = {i: float(x @ (wanted @ keys[i])) / math.sqrt(DIM) + log_weights[i] for i in left}
                best = max(scores, key=lambda i: scores[i])
                picked_values[hop], picked_scores[hop] = value @ values[best], scores[best]
                x = x + fact @ keys[best]
                left -= {best}
            expected = np.concatenate([*picked_values, picked_scores])
            np.testing.assert_allclose(found[block, query].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_the_hinge_loss_is_its_formula() -> None:
    margin = 0.4
    reader = scrambled(SupportingFacts(SupportingFactsReader(margin=margin), DIM, DIM), std=0.7)
    queries, slots, _ = drawn(DIM)
    support = torch.tensor([[[0, 3], [4, 1]], [[1, 4], [3, 1]], [[2, 0], [2, 0]], [[0, 1], [0, 1]]])
    known = torch.tensor(
        [[[True, True], [True, False]], [[True, True], [False, False]], [[True, False]] * 2, [[False] * 2] * 2]
    )
    found = reader.support_loss(queries, slots, support, known)
    asked, fact, wanted = (numpy_of(layer.weight) for layer in (reader.asked, reader.found, reader.looked_for))
    assert slots.log_weight is not None
    for block in range(BLOCKS):
        for query in range(QUERIES):
            x, expected = asked @ numpy_of(queries[block, query]), 0.0
            left = {slot for slot in range(SLOTS) if slots.valid[block, slot]}
            for hop in range(2):
                true = int(support[block, query, hop])
                score = {
                    i: float(x @ (wanted @ numpy_of(slots.keys[block, i]))) / math.sqrt(DIM)
                    + float(slots.log_weight[block, i])
                    for i in {*left, true}
                }
                left -= {true}
                if known[block, query, hop] and left:
                    hinges = [max(0.0, margin - score[true] + score[i]) for i in left]
                    expected += sum(hinges) / len(hinges)
                x = x + fact @ numpy_of(slots.keys[block, true])
            assert float(found[block, query]) == pytest.approx(expected, abs=1e-5)
    assert found[0].all()
    assert not found[2:].any()


def test_weak_support_is_what_is_most_like_the_target() -> None:
    values = torch.tensor([[[1.0, 0.0, 9.0], [5.0, 5.0, 0.0], [0.0, 0.1, 0.0], [0.0, -3.0, 0.0]]])
    queries = torch.tensor([[[2.0, 0.1], [0.0, 1.0]]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    support, known = weak_support(queries, Slots(values, values, valid), 2)
    assert support.tolist() == [[[0, 1], [2, 1]]], "by the angle, over the numbers that both have"
    assert known.all()
    valid[0, 1:] = False
    support, known = weak_support(queries, Slots(values, values, valid), 2)
    assert support[..., 0].tolist() == [[0, 0]]
    assert known.tolist() == [[[True, False]] * 2], "a second slot is not there"
    assert weak_support(queries, Slots(values[:, :1], values[:, :1], valid[:, :1]), 2)[0].shape == (1, 2, 1)


def test_only_clicks_have_a_weak_support_and_learning_it_raises_its_score() -> None:
    config = SupportingFactsReader(margin=0.5, support_weight=2.0)
    reader = scrambled(SupportingFacts(config, DIM, DIM), std=0.7)
    queries, slots, _ = drawn(DIM)
    clicked = torch.tensor([[True, False]] * BLOCKS)
    penalty = reader.penalty(queries, slots, clicked)
    assert penalty.shape == (BLOCKS, QUERIES)
    assert not penalty[:, 1].any()
    support, known = weak_support(queries, slots, 2)
    torch.testing.assert_close(penalty[:, 0], 2.0 * reader.support_loss(queries, slots, support, known)[:, 0])
    optimizer = torch.optim.Adam(reader.parameters(), lr=0.03)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = reader.penalty(queries, slots, torch.ones_like(clicked)).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize("slot_dim", [DIM - 2, DIM + 1])
def test_hierarchical_is_its_formula(slot_dim: int) -> None:
    number = 3
    reader = scrambled(Hierarchical(HierarchicalReader(num_queries=number), DIM, slot_dim), std=0.7)
    queries, slots, recent = drawn(slot_dim)
    found = reader(queries, slots, recent)
    assert found.shape == (BLOCKS, QUERIES, reader.num_features)
    ask, key, value = (numpy_of(layer.weight) for layer in (reader.ask, reader.key, reader.value))
    weigh: NullAttention = reader.weigh
    again = [numpy_of(layer.weight) for layer in (weigh.query, weigh.key, weigh.value)]
    for block in range(BLOCKS):
        keys, values, log_weights = real_slots(slots, block)
        for query in range(QUERIES):
            x = numpy_of(queries[block, query])
            both = np.concatenate([x, numpy_of(recent[block, query])])
            reads = [
                attention(
                    ask[DIM * h : DIM * (h + 1)] @ both,
                    [key @ k for k in keys],
                    [value @ v for v in values],
                    log_weights,
                    float(reader.null_logit),
                )
                for h in range(number)
            ]
            answers = [read for read, _ in reads] if keys else []
            total, weight = attention(
                again[0] @ x,
                [again[1] @ r for r in answers],
                [again[2] @ r for r in answers],
                [0.0] * len(answers),
                float(weigh.null_logit),
            )
            expected = [*total, weight, *(weight for _, weight in reads)]
            np.testing.assert_allclose(found[block, query].numpy(), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", READERS)
def test_a_memory_without_a_slot_is_answered_by_zero(name: str) -> None:
    config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(READERS[name])
    reader = scrambled(build_reader(config, DIM, DIM + 1))
    queries, slots, recent = drawn(DIM + 1)
    answers = reader(queries, slots, recent)
    assert answers.shape == (BLOCKS, QUERIES, reader.num_features)
    assert not answers[3].any()
    assert (answers[:3].flatten(1) != 0).any(dim=1).all()


@torch.no_grad()
@pytest.mark.parametrize("name", READERS)
def test_every_reader_heeds_the_slots_weights(name: str) -> None:
    config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(READERS[name])
    reader = scrambled(build_reader(config, DIM, DIM))
    queries, slots, recent = drawn(DIM)
    assert slots.log_weight is not None
    gone = slots.log_weight.clone()
    gone[:, 1] = -1e9  # as good as not there
    without = VALID.clone()
    without[:, 1] = False
    torch.testing.assert_close(
        reader(queries[:2], Slots(slots.keys[:2], slots.values[:2], VALID[:2], gone[:2]), recent[:2]),
        reader(queries[:2], Slots(slots.keys[:2], slots.values[:2], without[:2], slots.log_weight[:2]), recent[:2]),
        atol=1e-5,
        rtol=0,
    )
    alike = reader(queries, Slots(slots.keys, slots.values, VALID), recent)
    weightless = reader(queries, Slots(slots.keys, slots.values, VALID, torch.zeros_like(gone)), recent)
    torch.testing.assert_close(alike, weightless)


@torch.no_grad()
@pytest.mark.parametrize("name", READERS)
def test_a_reader_begins_by_finding_the_slot_that_is_like_the_target(name: str) -> None:
    config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(READERS[name])
    torch.manual_seed(0)
    reader = build_reader(config, DIM, DIM)
    directions = 10 * torch.eye(DIM)[None, :4]
    slots = Slots(directions, directions, torch.ones(1, 4, dtype=torch.bool))
    answers = reader(directions[:, :3], slots, directions[:, 3:].expand(-1, 3, -1))
    found = answers[..., reader.attended[0]]
    assert found[0, :, :3].argmax(dim=1).tolist() == [0, 1, 2]
