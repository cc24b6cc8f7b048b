"""What the plugin promises whoever holds it: stored state and window answer as the whole history does."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_rec.config import MemoryConfig
from rm_rec.config.machines import RehearsalMemory
from rm_rec.machines.base import State
from rm_rec.readers.supporting_facts import SupportingFacts
from rm_rec.segments import Queries, Stretch
from rm_rec.user_memory import UserMemory
from tests.fakes import ENCODERS, KINDS, READERS, model_config, scrambled

DIM, LENGTH = 8, 4
WINDOWS: dict[str, dict[str, Any]] = {
    "tail": {"kind": "segments", "num_segments": 0},
    "tail+1": {"kind": "segments", "num_segments": 1},
    "tail+3": {"kind": "segments", "num_segments": 3},
    "last6": {"kind": "last_events", "num_events": 6},
}
SETTINGS = [("none", "none"), *((kind, encoder) for kind in KINDS for encoder in ENCODERS)]
PARAMS = [(*setting, window, "attention") for setting in SETTINGS for window in WINDOWS]
PARAMS += [("associative", "none", window, reader) for window in WINDOWS for reader in READERS if reader != "attention"]


@pytest.fixture(params=PARAMS, ids="-".join)
def memory(request: pytest.FixtureRequest) -> UserMemory:
    machine, encoder, window, reader = request.param
    return user_memory(machine=machine, encoder=encoder, window=WINDOWS[window], reader=READERS[reader])


def test_going_on_from_a_state_and_a_window_equals_one_pass_through_the_public_face() -> None:
    torch.manual_seed(0)
    memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4, machine=RehearsalMemory(num_slots=3, slot_dim=8)))
    tokens, time = torch.randn(1, 23, 8), torch.arange(23).view(1, 23)
    target = torch.randn(1, 8)

    def whole(num_events: int) -> tuple[Tensor, State]:
        stretch = memory.stretch(tokens[:, :num_events], time[:, :num_events], torch.tensor([num_events]))
        answers, state, _ = memory(stretch, memory.queries(target, [0], [num_events], [50]))
        return answers, state

    _, state = whole(14)  # three full segments and a tail of two: the window is events 8 to 13
    stretch = memory.stretch(tokens[:, 8:], time[:, 8:], torch.tensor([15]), num_folded=1)
    answers, later, _ = memory(stretch, memory.queries(target, [0], [15], [50], num_folded=1), state)
    expected, expected_state = whole(23)
    torch.testing.assert_close(answers, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(later, expected_state, atol=1e-5, rtol=0)


def user_memory(**settings: Any) -> UserMemory:
    return scrambled(UserMemory(model_config(**settings)))


def history(num_users: int, num_events: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_users, num_events, DIM, generator=generator)
    return tokens, torch.randint(0, 50, (num_users, num_events), generator=generator).cumsum(1)


class Served:
    """Some users of equally long histories as a store keeps them: the state, and the raw events of the window."""

    def __init__(self, memory: UserMemory, num_users: int) -> None:
        self.memory = memory
        self.state: State = memory.initial(num_users)
        self.num_written = 0  # segments
        self.tokens = torch.zeros(num_users, 0, DIM)
        self.time = torch.zeros(num_users, 0, dtype=torch.int64)

    def day(self, tokens: Tensor, time: Tensor, target: Tensor) -> Tensor:
        """Fold a day's events, then ask about a target after them."""
        self.tokens, self.time = torch.cat([self.tokens, tokens], 1), torch.cat([self.time, time], 1)
        num_users, num_events = self.time.shape
        num_folded = min(self.num_written, self.memory.window.num_segments)
        whole = self.memory.stretch(self.tokens, self.time, torch.full((num_users,), num_events))
        stretch = Stretch(tokens=whole.tokens, valid=whole.valid, time=whole.time, num_folded=num_folded)
        queries = Queries(
            tokens=target,
            user=torch.arange(num_users),
            boundary=torch.full((num_users,), num_events // LENGTH - num_folded),
            num_visible=torch.full((num_users,), num_events),
            time=self.time[:, -1] + 9 if num_events else torch.zeros(num_users, dtype=torch.int64),
        )
        answers, self.state, _ = self.memory(stretch, queries, self.state)
        self.num_written += num_events // LENGTH - num_folded
        # Keep the tail and the window's segments.
        kept = num_events // LENGTH - min(self.num_written, self.memory.window.num_segments)
        self.tokens, self.time = self.tokens[:, kept * LENGTH :], self.time[:, kept * LENGTH :]
        return answers


@torch.no_grad()
@pytest.mark.parametrize("days", [[3, 1, 0, 9, 4, 2, 5, 8], [0, 1, 1, 1, 1, 20, 1], [8, 8, 8, 8]], ids=str)
def test_folding_day_by_day_equals_one_pass(memory: UserMemory, days: list[int]) -> None:
    tokens, time = history(2, sum(days))
    targets = torch.randn(len(days), 2, DIM, generator=torch.Generator().manual_seed(1))
    served = Served(memory, 2)
    for index in range(len(days)):
        seen, before = sum(days[: index + 1]), sum(days[:index])
        found = served.day(tokens[:, before:seen], time[:, before:seen], targets[index])
        queries = memory.queries(
            targets[index], user=[0, 1], num_earlier=[seen, seen], time=time[:, seen - 1] + 9 if seen else [0, 0]
        )
        # The one pass sees all days, and is asked about the moment after this one.
        expected, state, _ = memory(memory.stretch(tokens, time, torch.tensor([sum(days)] * 2)), queries)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert served.state.keys() == state.keys()
    for name, values in state.items():
        torch.testing.assert_close(served.state[name], values, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_batch_equals_its_users_one_by_one(memory: UserMemory) -> None:
    lengths = [0, 3, 4, 17]
    tokens, time = history(4, 17)
    targets = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1))
    stretch = memory.stretch(tokens, time, torch.tensor(lengths))
    together, states, _ = memory(stretch, memory.queries(targets, [0, 1, 2, 3], lengths, time[:, -1]))
    for user, length in enumerate(lengths):
        own = slice(user, user + 1)
        stretch = memory.stretch(tokens[own, :length], time[own, :length], torch.tensor([length]))
        alone, state, _ = memory(stretch, memory.queries(targets[own], [0], [length], time[own, -1]))
        torch.testing.assert_close(alone, together[own], atol=1e-5, rtol=0)
        for name, values in state.items():
            torch.testing.assert_close(values, states[name][own], atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_incomplete_segment_is_not_folded(memory: UserMemory) -> None:
    tokens, time = history(1, 7)
    _, whole, _ = memory(memory.stretch(tokens[:, :4], time[:, :4], torch.tensor([4])), no_queries(memory))
    _, more, _ = memory(memory.stretch(tokens, time, torch.tensor([7])), no_queries(memory))
    _, fewer, _ = memory(memory.stretch(tokens[:, :3], time[:, :3], torch.tensor([3])), no_queries(memory))
    initial = memory.initial(1)
    for name in initial:
        assert torch.equal(more[name], whole[name])
        assert torch.equal(fewer[name], initial[name])
        assert not torch.equal(whole[name], initial[name])


@torch.no_grad()
def test_a_user_without_events_is_answered(memory: UserMemory) -> None:
    tokens, time = history(2, 0)
    stretch = memory.stretch(tokens, time, torch.zeros(2, dtype=torch.int64))
    answers, state, _ = memory(stretch, memory.queries(torch.ones(2, DIM), [0, 1], [0, 0], [5, 6]))
    assert answers.shape == (2, memory.num_features)
    assert torch.isfinite(answers).all()
    torch.testing.assert_close(answers[0], answers[1], atol=1e-6, rtol=0)
    initial = memory.initial(2)
    assert all(torch.equal(state[name], initial[name]) for name in initial)


def no_queries(memory: UserMemory) -> Queries:
    return memory.queries(
        torch.zeros(0, DIM),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int64),
    )


@torch.no_grad()
def test_where_nothing_is_asked_nothing_is_answered(memory: UserMemory) -> None:
    tokens, time = history(2, 6)
    answers, _, _ = memory(memory.stretch(tokens, time, torch.tensor([6, 2])), no_queries(memory))
    assert answers.shape == (0, memory.num_features)


def test_without_a_machine_there_is_no_state() -> None:
    memory = user_memory(machine="none")
    tokens, time = history(2, 6)
    _, state, trace = memory(memory.stretch(tokens, time, torch.tensor([6, 2])), no_queries(memory))
    assert memory.initial(3) == state == trace == {}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_attended_says_where_the_tokens_space_lies_in_an_answer(
    kind: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = user_memory(machine=kind, reader=READERS[reader])
    tokens, time = history(1, 10)
    shown = memory.slots
    # What is attended to is worth nothing.
    monkeypatch.setattr(
        memory, "slots", lambda *where: replace(found := shown(*where), values=torch.zeros_like(found.values))
    )
    with torch.no_grad():
        memory.window.attention.value.weight.zero_()
    answers, _, _ = memory(
        memory.stretch(tokens, time, torch.tensor([10])), memory.queries(tokens[:, 0], [0], [10], [99])
    )
    attended = torch.zeros(memory.num_features, dtype=torch.bool)
    for place in memory.attended:
        assert place.stop - place.start == DIM
        assert not attended[place].any()
        attended[place] = True
    assert not answers[0, attended].any()
    # A memory of one slot has nothing for a second choice.
    num_unused = 1 if (kind, reader) == ("mean_pool", "supporting_facts") else 0
    assert (answers[0, ~attended] == 0).sum() == num_unused


@pytest.mark.parametrize("reader", READERS)
def test_only_a_reader_with_a_loss_of_its_own_adds_one(reader: str) -> None:
    memory = user_memory(machine="mean_pool", reader=READERS[reader])
    tokens, time = history(2, 17)
    targets = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    queries = memory.queries(targets, [0, 1, 1, 0, 0], [17, 3, 12, 12, 12], [9_999] * 5)
    _, _, trace = memory(memory.stretch(tokens, time, torch.tensor([17, 17])), queries)
    for clicked in ([True] * 5, [False] * 5):
        penalty = memory.penalty(trace, queries, torch.tensor(clicked))
        assert (penalty is not None) == (reader == "supporting_facts")
    assert memory.penalty(trace, no_queries(memory), torch.zeros(0, dtype=torch.bool)) is None


def test_a_readers_own_loss_is_a_mean_over_queries_of_the_state_that_each_reads() -> None:
    memory = user_memory(machine="associative", reader=READERS["supporting_facts"])
    tokens, time = history(2, 17)
    targets = torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))
    user, seen, clicked = [0, 1, 1, 0, 0], [17, 3, 12, 12, 12], [True, True, False, True, False]
    stretch = memory.stretch(tokens, time, torch.tensor([17, 17]))
    queries = memory.queries(targets, user, seen, [9_999] * 5)
    _, _, trace = memory(stretch, queries)
    found = memory.penalty(trace, queries, torch.tensor(clicked))
    assert isinstance(memory.reader, SupportingFacts)
    each = []
    for query in range(5):
        slots = memory.slots(trace, torch.tensor([user[query]]), torch.tensor([seen[query] // LENGTH]))
        own = memory.reader.penalty(targets[None, query : query + 1], slots, torch.tensor([[clicked[query]]]))
        each.append(own.detach().squeeze())
    assert found is not None
    assert [float(part) > 0 for part in each] == [True, False, False, True, False], "of clicks with something to read"
    torch.testing.assert_close(found, torch.stack(each).mean())


@torch.no_grad()
def test_a_reader_is_told_what_the_window_attended_to() -> None:
    memory = user_memory(machine="associative", reader=READERS["hierarchical"], window=WINDOWS["tail"])
    tokens, time = history(1, 10)
    changed = tokens.clone()
    changed[:, 8:] += 1.0  # the tail: no state holds it
    answers = []
    for shown in (tokens, changed):
        queries = memory.queries(tokens[:, 0], [0], [10], [9_999])
        answers.append(memory(memory.stretch(shown, time, torch.tensor([10])), queries)[0][0])
    of_reader = slice(memory.window.num_features, None)
    assert ((answers[0] - answers[1])[of_reader].abs() > 1e-4).any()
