"""Expire-Span equals a loop in NumPy, event by event."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rm_rec.attention import NullAttention
from rm_rec.config.machines import ExpireSpan
from rm_rec.machines.base import State
from rm_rec.machines.expire_span import ExpireSpanMachine
from tests.parity.small_histories import DIM, USERS, histories, numpy_of, real_events, sigmoid
from tests.support.fakes import scrambled

CONFIG = {"num_slots": 4, "max_span": 9, "ramp": 3}


def small_machine(**settings: Any) -> ExpireSpanMachine:
    return scrambled(ExpireSpanMachine(ExpireSpan(**CONFIG | settings), DIM), std=0.7)


def state_at(trace: State, user: int, boundary: int) -> State:
    return {name: values[user : user + 1, boundary] for name, values in trace.items()}


@torch.no_grad()
def test_expire_span_is_its_formula() -> None:
    machine = small_machine()
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    w, b = numpy_of(machine.span.weight)[0], float(machine.span.bias)
    longest, ramp = CONFIG["max_span"], CONFIG["ramp"]
    num_forced = 0
    for user in range(USERS):
        kept: list[tuple[np.ndarray, float, int]] = []  # event, span, which event of the user's it is
        written = forced = 0
        for boundary in range(5):
            left = [(x, e, min(max(1 + (e - (written - 1 - i)) / ramp, 0), 1), written - 1 - i) for x, e, i in kept]
            slots = machine.slots(state_at(trace, user, boundary))
            shown = [place for place in range(4) if slots.valid[0, place]]
            alive = [event for event in left if event[2] > 0]
            assert len(shown) == len(alive)
            for place, (x, _, mask, age) in zip(shown, alive, strict=True):
                np.testing.assert_allclose(slots.keys[0, place].numpy(), [*x, math.log1p(age)], atol=1e-5)
                np.testing.assert_allclose(slots.values[0, place].numpy(), [*x, math.log1p(age)], atol=1e-5)
                assert slots.log_weight is not None
                assert float(slots.log_weight[0, place]) == pytest.approx(math.log(mask), abs=1e-4)
            assert trace["written_and_forced"][user, boundary].tolist() == [written, forced]
            penalty = machine.config.span_weight * np.mean([e for _, e, _, _ in alive] or [0.0])
            assert float(machine.penalty(state_at(trace, user, boundary))) == pytest.approx(penalty, rel=1e-4)
            if boundary == 4:
                continue
            for x in real_events(segments, valid, user, boundary):
                kept.append((x, longest * float(sigmoid(w @ x + b)), written))
                written += 1
            # A segment comes at once: what goes is decided at its end.
            while len(kept) > CONFIG["num_slots"]:
                remainders = [e - (written - 1 - i) for _, e, i in kept]
                worst = int(np.argmin(remainders))
                forced += remainders[worst] > -ramp
                del kept[worst]
        num_forced += forced
    assert num_forced >= 3


@torch.no_grad()
def test_a_reader_attends_by_what_is_left_of_each_event() -> None:
    machine = small_machine(num_slots=20, ramp=6)
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)
    slots = machine.slots(state_at(trace, 3, 4))
    assert slots.log_weight is not None
    left = slots.log_weight[0].exp().masked_fill(~slots.valid[0], 0.0)
    assert ((left > 0.01) & (left < 0.99)).any()
    attention = scrambled(NullAttention(DIM, DIM + 1, DIM, 1))
    queries = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(2))
    keys, values = attention.project(slots.keys)
    found = attention(queries, keys, values, attention.bias(slots.valid, slots.log_weight))[0, 0, :DIM]
    strength = left * torch.exp(keys[0] @ attention.query(queries)[0, 0] / math.sqrt(DIM))
    expected = strength @ values[0] / (attention.null_logit.exp() + strength.sum())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_room_for_all_the_smallest_remainder_goes_and_is_counted() -> None:
    machine = small_machine(num_slots=2, max_span=20)
    machine.span.weight.zero_()
    machine.span.weight[0, 0] = 1.0
    machine.span.bias.zero_()
    events = torch.zeros(1, 1, 4, DIM)
    events[..., 0] = torch.tensor([9.0, -1.0, 9.0, -9.0])  # spans of 20, 5, 20 and 0
    events[..., 1] = torch.arange(4.0)
    trace = machine.scan(machine.initial(1), events, torch.ones(1, 1, 4, dtype=torch.bool))
    assert trace["events"][0, 1, :, 1].tolist() == [0.0, 2.0]
    assert trace["age"][0, 1].tolist() == [3.0, 1.0]
    assert trace["written_and_forced"][0, 1].tolist() == [4.0, 2.0], "both were alive"


SIGNS, NUM_ITEMS, EVENTS = 3, 20, 48


def planted(table: Tensor, num_users: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One event of a user, anywhere, is one of three signs, and says which of three questions is answered yes."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(SIGNS, (num_users,), generator=generator)
    items = torch.randint(SIGNS, NUM_ITEMS, (num_users, EVENTS), generator=generator)
    items[torch.arange(num_users), torch.randint(EVENTS, (num_users,), generator=generator)] = sign
    asked = torch.randint(SIGNS, (num_users,), generator=generator)
    return table[items].view(num_users, -1, 8, table.shape[1]), table[asked], (asked == sign).float()


def test_what_informs_gets_a_longer_span_than_what_distracts() -> None:
    torch.manual_seed(0)
    dim = 16
    table = torch.randn(NUM_ITEMS, dim) / 2
    machine = ExpireSpanMachine(ExpireSpan(num_slots=16, max_span=64, ramp=16, span_weight=1e-3), dim)
    attention = NullAttention(dim, dim + 1, dim, 1)
    head = torch.nn.Sequential(torch.nn.Linear(dim + 1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    modules = torch.nn.ModuleList([machine, attention, head])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)

    def spans() -> tuple[float, float]:
        with torch.no_grad():
            each = 64 * torch.sigmoid(machine.span(table)).squeeze(1)
        return float(each[:SIGNS].mean()), float(each[SIGNS:].mean())

    before = spans()
    for step in range(150):
        segments, targets, label = planted(table, 64, step)
        trace = machine.scan(machine.initial(64), segments, torch.ones(segments.shape[:3], dtype=torch.bool))
        last = {name: values[:, -1] for name, values in trace.items()}
        slots = machine.slots(last)
        keys, values = attention.key(slots.keys), attention.value(slots.values)
        answer = attention(targets[:, None], keys, values, attention.bias(slots.valid, slots.log_weight))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(answer[:, 0]).squeeze(1), label)
        optimizer.zero_grad()
        (loss + machine.penalty(last)).backward()
        optimizer.step()
    after = spans()
    assert after[0] > 1.5 * after[1], (before, after)
    assert after[0] / after[1] > 1.3 * before[0] / before[1], (before, after)
