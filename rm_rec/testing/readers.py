"""The promises of every reader: `check_reader`, and a check for each promise."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from pydantic import BaseModel
from safetensors.torch import load, save

from rm_rec.machines.base import Slots
from rm_rec.readers.base import Reader
from rm_rec.testing.contract import (
    Check,
    broken,
    by_name,
    check_gradient,
    copy_of,
    differ,
    expect,
    expect_attended_slices,
    expect_close,
    expect_finite,
    expect_identical,
    send_backward,
)
from rm_rec.testing.reader_case import (
    BLOCKS,
    EMPTY,
    QUERIES,
    SLOT_DIMS,
    SLOT_PARTS,
    SLOTS,
    TOKEN_DIM,
    Asked,
    ReaderCase,
)


@torch.no_grad()
def an_answer_has_its_size(case: ReaderCase) -> None:
    """An answer has `num_features` numbers for each query, whatever the numbers of queries and slots."""
    reader, asked = case.build(), case.asked()
    keys, values, valid = (part[:, 2:3] for part in (asked.slots.keys, asked.slots.values, asked.slots.valid))
    one_slot = replace(asked, slots=Slots(keys, values, valid))
    one_query = Asked(asked.queries[:, :1], asked.slots, None)
    for name, inputs in {"12 slots": asked, "one slot": one_slot, "one query per block": one_query}.items():
        found, expected = tuple(inputs.of(reader)["answer"].shape), (*inputs.queries.shape[:2], reader.num_features)
        expect(found == expected, f"an answer for {name} has shape {found}, expected {expected}")


def attended_are_vectors_of_the_tokens_space(case: ReaderCase) -> None:
    """The slices in `attended` are inside an answer, do not overlap, and have the size of a token."""
    expect_attended_slices(case.build().attended, case.build().num_features, TOKEN_DIM)


@torch.no_grad()
def a_memory_without_a_valid_slot_answers_zero(case: ReaderCase) -> None:
    """Without a valid slot the answer is zero; with a valid slot it is not."""
    reader, asked = case.build(), case.asked()
    unweighted = replace(asked, slots=replace(asked.slots, log_weight=None))
    for inputs in (asked, replace(asked, recent=None), unweighted):
        answer = inputs.of(reader)["answer"]
        largest = float(answer[EMPTY].abs().max())
        expect(largest == 0, f"without a valid slot, the answer's largest value is {largest:.3g}, expected 0")
        others = torch.cat([answer[:EMPTY], answer[EMPTY + 1 :]])
        expect(others.any(dim=-1).all(), "the answer is zero with a valid slot")


@torch.no_grad()
def invalid_slots_do_not_matter(case: ReaderCase) -> None:
    """The values and weights of slots that are not valid have no effect."""
    reader, asked = case.build(), case.asked()
    valid = asked.slots.valid
    expected = asked.of(reader)
    for value in (0.0, -7.0, 1e6):
        keys, values = (torch.where(valid[..., None], x, value) for x in (asked.slots.keys, asked.slots.values))
        weight = torch.where(valid, asked.tensors()["log_weight"], value)
        other = replace(asked, slots=Slots(keys, values, valid, weight))
        expect_close(other.of(reader), expected, f"with {value:g} in slots that are not valid")


@torch.no_grad()
def the_order_of_slots_does_not_matter(case: ReaderCase) -> None:
    """The same slots in another order give the same answer."""
    reader, asked = case.build(), case.asked()
    order = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(1))
    keys, values, valid, weight = (asked.tensors()[name][:, order] for name in SLOT_PARTS)
    shuffled = replace(asked, slots=Slots(keys, values, valid, weight))
    expect_close(shuffled.of(reader), asked.of(reader), "of slots in another order")


@torch.no_grad()
def slots_keys_and_values_are_read(case: ReaderCase) -> None:
    """An answer depends on the query, and on the keys and the values of the slots."""
    reader, asked = case.build(), case.asked()
    expected = asked.of(reader)["answer"]
    keys, values = (part.roll(1, dims=1) for part in (asked.slots.keys, asked.slots.values))
    for name, slots in {
        "keys": replace(asked.slots, keys=keys),
        "values": replace(asked.slots, values=values),
    }.items():
        other = replace(asked, slots=slots).of(reader)["answer"]
        expect((other[0] != expected[0]).any(), f"the answer does not depend on the {name}")
    other = replace(asked, queries=-asked.queries).of(reader)["answer"]
    expect((other[0] != expected[0]).any(), "the answer does not depend on the query")


@torch.no_grad()
def log_weight_is_added_to_a_slots_logit(case: ReaderCase) -> None:
    """`log_weight` is added to logits: a slot with -1e9 has no effect, and None is the same as zeros."""
    reader, asked = case.build(), case.asked().blocks(slice(0, EMPTY))
    weight, valid = asked.tensors()["log_weight"], asked.slots.valid
    for slot in range(SLOTS):
        suppressed, invalid = weight.clone(), valid.clone()
        suppressed[:, slot], invalid[:, slot] = -1e9, False
        expected = replace(asked, slots=replace(asked.slots, valid=invalid)).of(reader)
        found = replace(asked, slots=replace(asked.slots, log_weight=suppressed)).of(reader)
        expect_close(found, expected, "with a slot of log_weight -1e9")
    zeros = replace(asked, slots=replace(asked.slots, log_weight=torch.zeros_like(weight))).of(reader)
    none = replace(asked, slots=replace(asked.slots, log_weight=None)).of(reader)
    expect_close(none, zeros, "without log_weight")
    raised = replace(asked, slots=replace(asked.slots, log_weight=weight + 5.0 * torch.eye(SLOTS)[4])).of(reader)
    changed = differ(raised, asked.of(reader))
    expect(changed, "a larger log_weight of one slot changes no answer")


@torch.no_grad()
def blocks_do_not_influence_each_other(case: ReaderCase) -> None:
    """A block's answer does not depend on the other blocks, nor on their order."""
    reader, asked = case.build(), case.asked()
    together = asked.of(reader)["answer"]
    for block in range(BLOCKS):
        own = slice(block, block + 1)
        expect_close(asked.blocks(own).of(reader), {"answer": together[own]}, "of a block alone")
    order = torch.tensor([3, 0, 4, 2, 1])
    expect_close(asked.blocks(order).of(reader), {"answer": together[order]}, "of blocks in another order")


@torch.no_grad()
def queries_do_not_influence_each_other(case: ReaderCase) -> None:
    """A query's answer does not depend on the other queries of its block."""
    reader, asked = case.build(), case.asked()
    together = asked.of(reader)["answer"]
    assert asked.recent is not None
    for query in range(QUERIES):
        own = slice(query, query + 1)
        alone = Asked(asked.queries[:, own], asked.slots, asked.recent[:, own])
        expect_close(alone.of(reader), {"answer": together[:, own]}, "of a query alone")


@torch.no_grad()
def reading_changes_nothing(case: ReaderCase) -> None:
    """Reading does not change its arguments, and a second reading gives the same answer."""
    reader, asked = case.build(), case.asked()
    arguments, before = asked.tensors(), copy_of(asked.tensors())
    first = copy_of(asked.of(reader))
    expect_identical(arguments, before, "given to the reader")
    expect_identical(asked.of(reader), first, "of a second reading")


@torch.no_grad()
def recent_may_be_missing(case: ReaderCase) -> None:
    """Without `recent`, answers are finite too."""
    expect_finite(replace(case.asked(), recent=None).of(case.build())["answer"], "the answer without `recent`")


@torch.no_grad()
def saving_and_loading_is_exact(case: ReaderCase) -> None:
    """After saving and loading weights, answers are exactly the same."""
    reader, again, asked = case.build(), case.build(seed=5), case.asked()
    again.load_state_dict(load(save({name: values.contiguous() for name, values in reader.state_dict().items()})))
    expect_identical(asked.of(again), asked.of(reader), "with loaded weights")


def gradients_are_finite(case: ReaderCase) -> None:
    """Gradients of answers are finite, and none reaches a slot that is not valid."""
    _check_gradients(case, case.asked())


def extreme_values_are_finite(case: ReaderCase) -> None:
    """Answers and gradients are finite for inputs that are a thousand times as large, zero, or all equal."""
    asked = case.asked()
    tensors = {name: values for name, values in asked.tensors().items() if name != "valid"}
    for name, (factor, offset) in {
        "a thousand times as large": (1000.0, 0.0),
        "zero": (0.0, 0.0),
        "all equal": (0.0, 1.0),
    }.items():
        other = {key: factor * values + offset for key, values in tensors.items()}
        slots = Slots(other["keys"], other["values"], asked.slots.valid, other["log_weight"])
        _check_gradients(case, Asked(other["queries"], slots, other["recent"]), f" for inputs that are {name}")


def _check_gradients(case: ReaderCase, asked: Asked, where: str = "") -> None:
    reader = case.build().train()
    leaves = {name: values.clone() for name, values in asked.tensors().items()}
    for name in leaves:
        leaves[name].requires_grad_(name != "valid")
    slots = Slots(leaves["keys"], leaves["values"], leaves["valid"], leaves["log_weight"])
    answer = reader(leaves["queries"], slots, leaves["recent"])
    expect_finite(answer, f"the answer{where}")
    send_backward(answer.square().sum())
    for name in ("queries", "keys", "values"):
        gradient = check_gradient(leaves[name].grad, f"{name}{where}")
        if name != "queries":
            expect(not gradient[~leaves["valid"]].any(), f"{name}{where} have a gradient where no slot is valid")
    for name, values in {**leaves, **dict(reader.named_parameters())}.items():
        if values.grad is not None:
            expect_finite(values.grad, f"the gradient of {name}{where}")


def a_penalty_is_a_number_for_each_query(case: ReaderCase) -> None:
    """`penalty` returns a finite number for each query if `needs_labels` is True, and None otherwise."""
    reader, asked = case.build(), case.asked()
    for clicked in (torch.ones(BLOCKS, QUERIES, dtype=torch.bool), torch.zeros(BLOCKS, QUERIES, dtype=torch.bool)):
        penalty = reader.penalty(asked.queries, asked.slots, clicked)
        if penalty is None:
            expect(not reader.needs_labels, "penalty is None, but needs_labels is True")
            continue
        if not reader.needs_labels:
            broken("penalty is not None, but needs_labels is False: training would never call it")
        shape = tuple(penalty.shape)
        expect(
            shape == (BLOCKS, QUERIES), f"penalty has shape {shape}, expected {(BLOCKS, QUERIES)}: one number per query"
        )
        expect_finite(penalty, "penalty")
        weights = [weight for weight in reader.parameters() if weight.requires_grad]
        for gradient in torch.autograd.grad(penalty.sum(), weights, allow_unused=True):
            if gradient is not None:
                expect_finite(gradient, "the gradient of penalty")


READER_CHECKS: Final[Mapping[str, Check[ReaderCase]]] = by_name(
    (
        an_answer_has_its_size,
        attended_are_vectors_of_the_tokens_space,
        a_memory_without_a_valid_slot_answers_zero,
        invalid_slots_do_not_matter,
        the_order_of_slots_does_not_matter,
        slots_keys_and_values_are_read,
        log_weight_is_added_to_a_slots_logit,
        blocks_do_not_influence_each_other,
        queries_do_not_influence_each_other,
        reading_changes_nothing,
        recent_may_be_missing,
        saving_and_loading_is_exact,
        gradients_are_finite,
        extreme_values_are_finite,
        a_penalty_is_a_number_for_each_query,
    )
)


def check_reader(reader: type[Reader], config: BaseModel | None = None) -> None:
    """Check everything that readers promise, for slots of the size of tokens, smaller and larger.

    The reader is built as `reader(config, token_dim, slot_dim)`, with its default settings if none are given; token_dim
    is 8. Raises ContractError for the first promise that is broken.

    >>> from rm_rec.readers.attention import SlotAttention
    >>> check_reader(SlotAttention)
    """
    for slot_dim in SLOT_DIMS:
        for check in READER_CHECKS.values():
            check(ReaderCase(reader, config, slot_dim))
