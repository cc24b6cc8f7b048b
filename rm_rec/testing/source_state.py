"""The promises of every answer source about its state: `state_parts`, `initial` and `fold`."""

from dataclasses import replace
from itertools import pairwise

import torch
from safetensors.torch import load, save
from torch import Tensor

from rm_rec.machines.base import State, StateTrace, last_state
from rm_rec.memory_state import MemoryState
from rm_rec.segments import Segments
from rm_rec.sources.base import AnswerSource
from rm_rec.testing.contract import copy_of, differ, expect, expect_close, expect_identical
from rm_rec.testing.source_case import LENGTH, RAGGED, SourceCase, changed, of_users


@torch.no_grad()
def a_state_has_the_parts_it_says(case: SourceCase) -> None:
    """A state has the parts, shapes and types that `state_parts` returns, however much was folded."""
    source = case.source()
    parts = source.state_parts()
    for num_events in (0, 4, 200):
        state = last_state(_folded(case, source, (num_events, num_events)))
        for when, found in (("initial", source.initial(2)), (f"after {num_events} events", state)):
            expect(
                found.keys() == parts.keys(), f"the state {when} has {sorted(found)}, state_parts says {sorted(parts)}"
            )
            for name, part in parts.items():
                seen = tuple(found[name].shape), found[name].dtype
                expected = (2, *part.shape), part.dtype
                expect(seen == expected, f"{name!r} {when}, of two users, is {seen}, expected {expected}")


@torch.no_grad()
def initial_is_the_same_for_all(case: SourceCase) -> None:
    """The initial state is the same for every user and at each call."""
    source = case.source()
    first = copy_of(source.initial(4))
    expect_identical(source.initial(4), first, "of a second call of initial")
    for name, values in first.items():
        expect(torch.equal(values, values[:1].expand_as(values)), f"{name!r} of initial differs between users")
    _folded(case, source, (8,) * 4)
    expect_identical(source.initial(4), first, "of initial after something was folded")


@torch.no_grad()
def a_trace_starts_with_the_state_that_came_in(case: SourceCase) -> None:
    """`fold` returns the state before the first segment, then one after each segment."""
    source, state, segments = _started(case)
    trace = source.fold(state, segments)
    expected = segments.valid.shape[0], segments.valid.shape[1] + 1
    for name, values in trace.items():
        expect(
            values.shape[:2] == expected,
            f"{name!r} of a trace has shape {tuple(values.shape)}, expected {expected} first",
        )
    expect_identical(_state_at(trace, 0), state, "at the first boundary of a trace")


@torch.no_grad()
def folding_changes_the_state(case: SourceCase) -> None:
    """A segment of events changes the state, if the source has one."""
    source, state, segments = _started(case)
    after = last_state(source.fold(state, segments))
    users = segments.valid.flatten(1).any(dim=1)
    for user in users.nonzero().flatten().tolist() if state else ():
        own = slice(user, user + 1)
        expect(differ(_rows(after, own), _rows(state, own)), f"{RAGGED[user]} more events of a user changed no part")


@torch.no_grad()
def folding_changes_none_of_its_inputs(case: SourceCase) -> None:
    """`fold` returns a new state, and does not change its arguments."""
    source, state, segments = _started(case)
    arguments = {**state, ".tokens": segments.tokens, ".valid": segments.valid, ".time": segments.time}
    arguments |= {f".keys.{name}": values for name, values in segments.keys.items()}
    before = copy_of(arguments)
    source.fold(state, segments)
    expect_identical(arguments, before, "given to fold")


@torch.no_grad()
def empty_segments_change_nothing(case: SourceCase) -> None:
    """A segment that is not valid leaves its user's state unchanged, bit by bit."""
    source, state, segments = _started(case)
    nothing = replace(segments, valid=torch.zeros_like(segments.valid))
    trace = source.fold(state, nothing)
    for boundary in range(segments.valid.shape[1] + 1):
        expect_identical(_state_at(trace, boundary), state, f"after {boundary} segments that are not valid")
    alone = source.fold(state, segments)
    for user, length in enumerate(RAGGED):
        own, end = slice(user, user + 1), length // LENGTH
        later = {name: values[own, end:] for name, values in alone.items()}
        unchanged = {name: values[:, :1].expand_as(values) for name, values in later.items()}
        expect_identical(later, unchanged, f"after the last segment of a user of {length} events")


@torch.no_grad()
def padding_does_not_matter(case: SourceCase) -> None:
    """The vectors, times and keys of segments that are not valid have no effect."""
    source, state, segments = _started(case)
    valid = segments.valid
    expected = source.fold(state, segments)
    for value, key in ((0.0, 0), (1e6, case.num_ids - 1)):
        other = replace(
            segments,
            tokens=torch.where(valid[..., None], segments.tokens, value),
            time=torch.where(valid, segments.time, int(value)),
            keys={name: torch.where(valid, values, key) for name, values in segments.keys.items()},
        )
        expect_close(source.fold(state, other), expected, f"with {value:g} in padding", tolerance=1e-6)


@torch.no_grad()
def users_are_not_mixed(case: SourceCase) -> None:
    """A user's state does not depend on the other users, nor on their order."""
    source, state, segments = _started(case)
    together = source.fold(state, segments)
    for user, length in enumerate(RAGGED):
        own = slice(user, user + 1)
        alone = source.fold(_rows(state, own), _segments_of(segments, own))
        expect_close(alone, _rows(together, own), f"of a user of {length} events alone")
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = source.fold(_rows(state, order), _segments_of(segments, order))
    expect_close(shuffled, _rows(together, order), "of users in another order")


@torch.no_grad()
def two_calls_equal_one(case: SourceCase) -> None:
    """Folding segments in two calls gives the same states as folding them in one."""
    source, state, segments = _started(case)
    once = source.fold(state, segments)
    for cut in (0, 1, 3, 6):
        first = source.fold(state, segments.between(0, cut))
        second = source.fold(last_state(first), segments.between(cut))
        where = f"of two calls, cut after {cut} segments"
        expect_close(first, {name: values[:, : cut + 1] for name, values in once.items()}, where)
        expect_close(second, {name: values[:, cut:] for name, values in once.items()}, where)


@torch.no_grad()
def fold_last_equals_the_end_of_fold(case: SourceCase) -> None:
    """`fold_last` returns the last state of `fold`, and a state without events bit by bit."""
    source, state, segments = _started(case)
    arguments = {**state, ".tokens": segments.tokens, ".valid": segments.valid}
    before = copy_of(arguments)
    expect_close(source.fold_last(state, segments), last_state(source.fold(state, segments)), "of fold_last")
    expect_identical(arguments, before, "given to fold_last")
    nothing = replace(segments, valid=torch.zeros_like(segments.valid))
    expect_identical(source.fold_last(state, nothing), state, "of fold_last, after segments that are not valid")


@torch.no_grad()
def folding_night_by_night_equals_folding_at_once(case: SourceCase) -> None:
    """A memory updated every night has the same state and answers as one built at once."""
    memory, histories = case.memory(), case.histories()
    users, whole = torch.arange(histories.num_users), memory.whole
    once = whole.fold(whole.initial(len(users)), histories)
    nights = [(histories.lengths * fraction).floor().long() for fraction in (0.0, 0.15, 0.2, 0.7, 1.0)]
    nightly = whole.initial(len(users))
    for start, end in pairwise(nights):
        nightly = whole.fold(nightly, of_users(histories, users, start, end))
    expect_close(nightly.state, once.state, "of a memory that was updated in four nights")
    queries = replace(case.queries(histories, users, histories.lengths), num_earlier=None)
    found, expected = (memory.own(whole.answer(state, queries)) for state in (nightly, once))
    expect_close(found, expected, "from a memory that was updated in four nights")


@torch.no_grad()
def a_later_event_changes_no_earlier_state(case: SourceCase) -> None:
    """An event does not change states before its segment."""
    source, num_segments = case.source(), 6
    # One copy of the same user for each segment whose last event, and all after it, are changed.
    copies = of_users(case.histories((num_segments * LENGTH,)), torch.zeros(num_segments, dtype=torch.int64))
    within = torch.arange(num_segments * LENGTH).repeat(num_segments)
    first = torch.arange(1, num_segments + 1).repeat_interleave(num_segments * LENGTH) * LENGTH - 1
    other = changed(copies, within >= first, case.num_ids)
    state = source.initial(num_segments)
    traces = [source.fold(state, case.segments(source, each)) for each in (other, copies)]
    for user in range(num_segments):
        found, expected = ({name: values[user, : user + 1] for name, values in trace.items()} for trace in traces)
        expect_identical(found, expected, f"before segment {user}, which was changed,")


@torch.no_grad()
def what_grows_with_the_history_is_kept_exactly(case: SourceCase) -> None:
    """A float part that grows with the history is `exact`: in float16, a large sum or count stops growing."""
    source = case.source()
    trace = _folded(case, source, (480,))
    for name, part in source.state_parts().items():
        first, second = (float(half.abs().max()) for half in (trace[name][:, :61], trace[name][:, 61:]))
        grows = part.dtype.is_floating_point and second > 1.5 * first + 1
        expect(part.exact or not grows, f"{name!r} grew from {first:.3g} to {second:.3g}, but is not exact")


@torch.no_grad()
def saving_and_loading_is_exact(case: SourceCase) -> None:
    """After saving and loading weights and memories, answers and new memories are exactly the same."""
    memory, again, histories = case.memory(), case.memory(seed=5), case.histories()
    kept = memory.whole.fold(memory.whole.initial(len(RAGGED)), histories)
    loaded = MemoryState.from_tensors(load(save({name: v.contiguous() for name, v in kept.tensors().items()})))
    expect_identical(loaded.tensors(), kept.tensors(), "of a loaded memory")
    weights = memory.whole.state_dict()
    again.whole.load_state_dict(load(save({name: values.contiguous() for name, values in weights.items()})))
    users = torch.arange(len(RAGGED))
    queries = replace(case.queries(histories, users, histories.lengths), num_earlier=None)
    expected = memory.own(memory.whole.answer(kept, queries))
    expect_identical(again.own(again.whole.answer(loaded, queries)), expected, "with loaded weights and memories")
    rebuilt = again.whole.fold(again.whole.initial(len(RAGGED)), histories)
    expect_identical(rebuilt.state, kept.state, "of a memory built with loaded weights")


def _folded(case: SourceCase, source: AnswerSource, lengths: tuple[int, ...]) -> StateTrace:
    state = source.initial(len(lengths))
    if max(lengths) < LENGTH:
        return {name: values[:, None] for name, values in state.items()}
    return source.fold(state, case.segments(source, case.histories(lengths)))


def _started(case: SourceCase) -> tuple[AnswerSource, State, Segments]:
    """Return a source, a state into which events of each user were folded, and segments to fold."""
    source = case.source()
    state = last_state(_folded(case, source, (24,) * len(RAGGED)))
    return source, state, case.segments(source, case.histories(seed=4))


def _state_at(trace: StateTrace, boundary: int) -> State:
    return {name: values[:, boundary] for name, values in trace.items()}


def _rows(state: State, users: Tensor | slice) -> State:
    return {name: values[users] for name, values in state.items()}


def _segments_of(segments: Segments, users: Tensor | slice) -> Segments:
    return Segments(
        tokens=segments.tokens[users],
        valid=segments.valid[users],
        time=segments.time[users],
        keys={name: values[users] for name, values in segments.keys.items()},
    )


STATE = (
    a_state_has_the_parts_it_says,
    initial_is_the_same_for_all,
    a_trace_starts_with_the_state_that_came_in,
    folding_changes_the_state,
    folding_changes_none_of_its_inputs,
    empty_segments_change_nothing,
    padding_does_not_matter,
    users_are_not_mixed,
    two_calls_equal_one,
    fold_last_equals_the_end_of_fold,
    folding_night_by_night_equals_folding_at_once,
    a_later_event_changes_no_earlier_state,
    what_grows_with_the_history_is_kept_exactly,
    saving_and_loading_is_exact,
)
