"""What the plugin promises whoever holds it: what is kept of users answers as their whole histories do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rm_rec.histories import Histories, Queries
from rm_rec.memory_state import MemoryState
from rm_rec.readers.supporting_facts import SupportingFacts
from rm_rec.user_memory import StretchAnswers, UserMemory, in_order
from tests.support.fakes import ENCODERS, KINDS, READERS, model_config, scrambled

DIM, LENGTH = 8, 4
WINDOWS: dict[str, dict[str, Any]] = {
    "tail": {"kind": "segments", "num_segments": 0},
    "tail+1": {"kind": "segments", "num_segments": 1},
    "tail+3": {"kind": "segments", "num_segments": 3},
    "last6": {"kind": "last_events", "num_events": 6},
}
DAYS = ([3, 1, 0, 9, 4, 2, 5, 8], [0, 1, 1, 1, 1, 20, 1], [8, 8, 8, 8])
# Each machine with each window, and what varies beside them in turns: each two of all these meet in some case, but
# for one reader a machine, which it meets in test_click_model.py.
CASES = {
    f"{kind}-{encoder}-{window}-{reader}": (kind, encoder, window, reader, days, bptt_segments)
    for row, kind in enumerate(["none", *KINDS])
    for column, window in enumerate(WINDOWS)
    for encoder in [ENCODERS[(row + column) % 2]]
    for reader in [list(READERS)[(row + 2 * column) % len(READERS)]]
    for days in [DAYS[(row + column) % 3]]
    for bptt_segments in [(1, 32)[(row + column // 2) % 2]]
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def memory(case: str) -> UserMemory:
    machine, encoder, window, reader, *_ = CASES[case]
    return user_memory(machine=machine, encoder=encoder, window=WINDOWS[window], reader=READERS[reader])


@pytest.fixture
def days(case: str) -> list[int]:
    """How many events each user has on each day."""
    return CASES[case][-2]


@pytest.fixture
def bptt_segments(case: str) -> int:
    return CASES[case][-1]


def user_memory(**settings: Any) -> UserMemory:
    return scrambled(UserMemory(model_config(**settings)))


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Past:
    """What some users did: from it, their histories between any two moments."""

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lengths = torch.tensor(lengths)
        shape = (len(lengths), max(lengths))
        self.tokens = torch.randn(*shape, DIM, generator=generator)
        self.time = torch.randint(0, 50, shape, generator=generator).cumsum(1)

    def between(self, start: Tensor, end: Tensor) -> Histories:
        """Each user's events from its `start`-th to before its `end`-th."""
        place = torch.arange(self.time.shape[1])
        chosen = (place >= start[:, None]) & (place < end[:, None])
        return Histories(lengths=end - start, time=self.time[chosen], tokens=self.tokens[chosen])

    def upto(self, end: Tensor | None = None) -> Histories:
        """Each user's events before its `end`-th; without it, all."""
        return self.between(torch.zeros_like(self.lengths), self.lengths if end is None else end)

    def queries(self, user: list[int], seen: list[int] | None = None, seed: int = 1) -> Queries:
        """Ask about targets after the events that are seen, or after all."""
        whose = torch.tensor(user, dtype=torch.int64)
        count = self.lengths[whose] if seen is None else torch.tensor(seen, dtype=torch.int64)
        time = torch.where(count > 0, self.time[whose, (count - 1).clamp(min=0)], 0) + 9
        return Queries(
            tokens=drawn(len(user), DIM, seed=seed), user=whose, time=time, num_earlier=None if seen is None else count
        )


def folded(memory: UserMemory, histories: Histories) -> MemoryState:
    return memory.fold(memory.initial(histories.num_users), histories)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def same_memories(memory: UserMemory, ours: MemoryState, theirs: MemoryState) -> None:
    """Compare what is kept: states within a tolerance, windows exactly, as far as they reach."""
    assert ours.state.keys() == theirs.state.keys() == memory.state_parts().keys()
    for name, values in theirs.state.items():
        close(ours.state[name], values)
    assert torch.equal(ours.num_events, theirs.num_events)
    real = torch.arange(memory.cut.window_positions) < memory.cut.window_length(ours.num_events)[:, None]
    assert torch.equal(ours.window_time[real], theirs.window_time[real])
    assert torch.equal(ours.window_gap[real], theirs.window_gap[real])
    assert ours.window.keys() == theirs.window.keys()
    for name, values in theirs.window.items():
        assert torch.equal(ours.window[name][real], values[real])


@torch.no_grad()
def test_folding_day_by_day_equals_one_pass(memory: UserMemory, days: list[int]) -> None:
    past, kept = Past([sum(days)] * 2), memory.initial(2)
    whole = past.upto()
    for index in range(len(days)):
        seen, before = sum(days[: index + 1]), sum(days[:index])
        kept = memory.fold(kept, past.between(torch.tensor([before] * 2), torch.tensor([seen] * 2)))
        # The one pass sees all days, and is asked about the moment after this one.
        asked = past.queries([0, 1], [seen, seen], seed=index)
        close(memory.answer(kept, replace(asked, num_earlier=None)), memory(whole, asked))
    same_memories(memory, kept, folded(memory, whole))


BEFORE, TONIGHT = [0, 3, 17, 0, 9, 4, 8], [11, 6, 9, 0, 0, 1, 4]


@torch.no_grad()
def test_going_on_from_memories_equals_one_pass_at_each_of_tonights_moments(
    memory: UserMemory, bptt_segments: int
) -> None:
    """Users of unequal histories, one without any, and one for whom nothing was kept before tonight."""
    short = UserMemory(memory.config.model_copy(update={"bptt_segments": bptt_segments}))
    short.load_state_dict(memory.state_dict())
    before, tonight = torch.tensor(BEFORE), torch.tensor(TONIGHT)
    past = Past((before + tonight).tolist())
    kept, new = folded(memory, past.upto(before)), past.between(before, before + tonight)
    moments = [(u, n) for u, count in enumerate(TONIGHT) for n in range(count + 1)]
    user, seen = [u for u, _ in moments], [BEFORE[u] + n for u, n in moments]
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(2)).tolist()
    user, seen = [user[place] for place in order], [seen[place] for place in order]
    asked = past.queries(user, seen)
    expected = memory(past.upto(), asked)
    assert expected.std(dim=0).min() > 0 or memory.slots is not None
    close(short(new, replace(asked, num_earlier=torch.tensor(seen) - before[user]), kept), expected)
    # And the memories after tonight answer what is asked at its end, as does one who says nothing of when.
    at_the_end = past.queries(list(range(len(BEFORE))))
    answers = memory(past.upto(), at_the_end)
    close(short(new, at_the_end, kept), answers)
    close(memory.answer(memory.fold(kept, new), at_the_end), answers)


@torch.no_grad()
def test_a_batch_equals_its_users_one_by_one(memory: UserMemory) -> None:
    past = Past([0, 3, 4, 17])
    asked, whole = past.queries([0, 1, 2, 3]), past.upto()
    together, kept = memory(whole, asked), folded(memory, whole)
    for user, length in enumerate([0, 3, 4, 17]):
        alone = Histories.padded(past.tokens[[user], :length], past.time[[user], :length])
        query = Queries(tokens=asked.tokens[[user]], user=torch.tensor([0]), time=asked.time[[user]])
        close(memory(alone, query), together[[user]])
        same_memories(memory, kept.select(torch.tensor([user])), folded(memory, alone))


@torch.no_grad()
def test_an_incomplete_segment_is_not_folded(memory: UserMemory) -> None:
    past = Past([7])
    fewer, whole, more = (folded(memory, past.upto(torch.tensor([n]))).state for n in (3, 4, 7))
    initial = memory.initial(1).state
    for name in initial:
        assert torch.equal(more[name], whole[name])
        assert torch.equal(fewer[name], initial[name])
        assert not torch.equal(whole[name], initial[name])


@torch.no_grad()
def test_a_user_without_events_is_answered(memory: UserMemory) -> None:
    nobody = Histories(
        lengths=torch.zeros(2, dtype=torch.int64), time=torch.zeros(0).long(), tokens=torch.zeros(0, DIM)
    )
    asked = Queries(tokens=torch.ones(2, DIM), user=torch.tensor([0, 1]), time=torch.tensor([5, 6]))
    answers = memory(nobody, asked)
    assert answers.shape == (2, memory.num_features)
    assert torch.isfinite(answers).all()
    close(answers[0], answers[1])
    kept, initial = folded(memory, nobody), memory.initial(2)
    assert all(torch.equal(kept.state[name], values) for name, values in initial.state.items())
    close(memory.answer(initial, asked), answers)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_one_query_of_each_user_is_answered_without_the_states_before_it(kind: str, window: str) -> None:
    """Users are asked about at boundaries of their own, several stretches apart; two are not asked about."""
    memory = user_memory(machine=kind, window=WINDOWS[window], bptt_segments=2)
    past = Past([40, 7, 23, 40, 12, 40])
    events, queries = past.upto(), past.queries([3, 0, 2, 1], [39, 10, 23, 2])
    whole = list(memory.stretches(events, queries))
    assert len(whole) > 1
    expected = in_order([part.answers for part in whole], [part.query for part in whole])
    found = memory(events, queries)
    close(found, expected)
    assert all(part.trace is None for part in memory.stretches(events, queries, every_boundary=False))
    weights = [weight for weight in memory.parameters() if weight.requires_grad]
    gradients = (
        torch.autograd.grad(answers.square().sum(), weights, allow_unused=True) for answers in (found, expected)
    )
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_several_queries_of_a_user_read_their_own_states() -> None:
    memory, past = user_memory(bptt_segments=2), Past([40, 40])
    queries = past.queries([0, 0, 1], [8, 33, 20])
    assert all(part.trace is not None for part in memory.stretches(past.upto(), queries, every_boundary=False))
    found = memory(past.upto(), queries)
    for row, (user, seen) in enumerate(((0, 8), (0, 33), (1, 20))):
        alone = replace(past.queries([user], [seen]), tokens=queries.tokens[row : row + 1])
        close(memory(past.upto(), alone), found[row : row + 1])


@torch.no_grad()
def test_where_nothing_is_asked_nothing_is_answered(memory: UserMemory) -> None:
    past = Past([6, 2])
    nothing = past.queries([])
    assert memory(past.upto(), nothing).shape == (0, memory.num_features)
    assert memory.answer(folded(memory, past.upto()), nothing).shape == (0, memory.num_features)
    assert list(memory.stretches(past.upto(), nothing)) == []


def test_without_a_machine_there_is_no_state() -> None:
    memory, past = user_memory(machine="none"), Past([6, 2])
    (stretch,) = memory.stretches(past.upto(), past.queries([0, 1]))
    assert memory.slots is None
    assert memory.state_parts() == memory.initial(3).state == folded(memory, past.upto()).state == stretch.trace == {}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_attended_says_where_the_tokens_space_lies_in_an_answer(
    kind: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, past = user_memory(machine=kind, reader=READERS[reader]), Past([10])
    # What is attended to is worth nothing.
    if memory.slots is not None:
        shown = memory.slots.machine.slots
        monkeypatch.setattr(
            memory.slots.machine,
            "slots",
            lambda state: replace(found := shown(state), values=torch.zeros_like(found.values)),
        )
    with torch.no_grad():
        memory.window.attention.value.weight.zero_()
    answers = memory(past.upto(), past.queries([0]))
    attended = torch.zeros(memory.num_features, dtype=torch.bool)
    for place in memory.attended:
        assert place.stop - place.start == DIM
        assert not attended[place].any()
        attended[place] = True
    assert not answers[0, attended].any()
    # A memory of one slot has nothing for a second choice.
    num_unused = 1 if (kind, reader) == ("mean_pool", "supporting_facts") else 0
    assert (answers[0, ~attended] == 0).sum() == num_unused


USER, SEEN = [0, 1, 1, 0, 0], [17, 3, 12, 12, 12]


def one_stretch(memory: UserMemory) -> StretchAnswers:
    past = Past([17, 17])
    (stretch,) = memory.stretches(past.upto(), past.queries(USER, SEEN))
    assert stretch.query.tolist() == list(range(len(USER)))
    assert stretch.user.tolist() == USER
    return stretch


@pytest.mark.parametrize("reader", READERS)
def test_only_a_reader_with_a_loss_of_its_own_adds_one(reader: str) -> None:
    memory = user_memory(machine="mean_pool", reader=READERS[reader])
    for clicked in ([True] * 5, [False] * 5):
        penalty = memory.penalty(one_stretch(memory), torch.tensor(clicked))
        assert (penalty is not None) == (reader == "supporting_facts")


def test_a_readers_own_loss_is_a_mean_over_queries_of_the_state_that_each_reads() -> None:
    config = model_config(machine="associative", reader=READERS["supporting_facts"])
    memory = scrambled(UserMemory(config), std=0.1)  # scores differ by less than the reader's margin
    clicked = [True, True, False, True, False]
    stretch = one_stretch(memory)
    found = memory.penalty(stretch, torch.tensor(clicked))
    assert memory.slots is not None
    assert isinstance(memory.slots.reader, SupportingFacts)
    each = []
    for query in range(5):
        slots = memory.slots.slots(stretch.trace, torch.tensor([USER[query]]), torch.tensor([SEEN[query] // LENGTH]))
        own = memory.slots.reader.penalty(stretch.targets[None, [query]], slots, torch.tensor([[clicked[query]]]))
        each.append(own.detach().squeeze())
    assert found is not None
    assert [float(part) > 0 for part in each] == [True, False, False, True, False], "of clicks with something to read"
    torch.testing.assert_close(found, torch.stack(each).mean())


@torch.no_grad()
def test_a_reader_is_told_what_the_window_attended_to() -> None:
    memory = user_memory(machine="associative", reader=READERS["hierarchical"], window=WINDOWS["tail"])
    past = Past([10])
    asked = past.queries([0])
    whole = past.upto()
    assert whole.tokens is not None
    changed = whole.tokens.clone()
    changed[8:] += 1.0  # the tail: no state holds it
    answers = memory(whole, asked)[0] - memory(replace(whole, tokens=changed), asked)[0]
    assert (answers[memory.window.num_features :].abs() > 1e-4).any()
