"""Learned queries equal a loop in NumPy, token by token."""

import math

import numpy as np
import torch

from rm_rec.config.machines import LearnedQueries
from rm_rec.machines.learned_queries import LearnedQueriesMachine
from tests.parity.small_histories import DIM, USERS, histories, numpy_of, real_events, sigmoid, softmax
from tests.support.fakes import scrambled


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2) + 1e-6)


def compressed(machine: LearnedQueriesMachine, content: np.ndarray, events: list[np.ndarray]) -> np.ndarray:
    if not events:
        return content
    learned, logit, keep = (numpy_of(part) for part in (machine.learned, machine.token_logit, machine.keep))
    query, key, value = (numpy_of(part.weight) for part in (machine.query, machine.event_key, machine.event_value))
    own_key, own_value = np.split(numpy_of(machine.token_key_value.weight), 2)
    tokens = [rms(a + c) for a, c in zip(learned, content, strict=True)]
    found = []
    for k, token in enumerate(tokens):
        logits = [(query @ token) @ (own_key @ other) / math.sqrt(len(token)) + logit[k, 0] for other in tokens]
        logits += [(query @ token) @ (key @ event) / math.sqrt(len(token)) for event in events]
        values = [own_value @ other for other in tokens] + [value @ event for event in events]
        read = softmax(np.array(logits)) @ np.array(values)
        held = sigmoid(keep[k]) * content[k] + read
        hidden = numpy_of(machine.widen.weight) @ rms(learned[k] + held) + numpy_of(machine.widen.bias)
        gelu = np.array([0.5 * y * (1 + math.erf(y / math.sqrt(2))) for y in hidden])
        found.append(held + numpy_of(machine.narrow.weight) @ gelu + numpy_of(machine.narrow.bias))
    return np.array(found)


@torch.no_grad()
def test_learned_queries_are_their_formula() -> None:
    machine = scrambled(LearnedQueriesMachine(LearnedQueries(num_slots=3, slot_dim=6, feedforward_dim=7), DIM), std=0.5)
    segments, valid = histories(torch.float32)
    trace = machine.scan(machine.initial(USERS), segments, valid)["content"]
    for user in range(USERS):
        content = np.zeros((3, 6))
        for boundary in range(5):
            np.testing.assert_allclose(trace[user, boundary].numpy(), content, atol=1e-5)
            slots = machine.slots({"content": trace[user : user + 1, boundary]})
            np.testing.assert_allclose(slots.keys[0].numpy(), content + numpy_of(machine.learned), atol=1e-5)
            np.testing.assert_allclose(slots.values[0].numpy(), content, atol=1e-5)
            if boundary < 4:
                content = compressed(machine, content, real_events(segments, valid, user, boundary))


@torch.no_grad()
def test_a_token_begins_by_gathering_the_events_that_are_like_it() -> None:
    machine = LearnedQueriesMachine(LearnedQueries(num_slots=2, slot_dim=DIM), DIM)
    machine.learned.copy_(torch.eye(DIM)[:2])
    events = 2 * torch.eye(DIM)[None, :3]
    content = machine.write(machine.initial(1), events, torch.ones(1, 3, dtype=torch.bool))["content"][0]
    assert content.argmax(dim=1).tolist() == [0, 1]


def test_what_a_token_holds_stays_bounded_however_long_the_history() -> None:
    torch.manual_seed(0)
    machine = LearnedQueriesMachine(LearnedQueries(num_slots=2, slot_dim=DIM), DIM)
    segment, valid = torch.ones(1, 1, 3, DIM), torch.ones(1, 1, 3, dtype=torch.bool)
    with torch.no_grad():
        trace = machine.scan(machine.initial(1), segment.expand(-1, 2000, -1, -1), valid.expand(-1, 2000, -1))[
            "content"
        ]
    # A segment adds at most an event's value, and 1 - sigmoid(4) of the rest is lost.
    assert trace.abs().max() < 1.0 / (1.0 - 0.983)
