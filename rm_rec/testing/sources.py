"""The promises of every answer source: `check_source`, and a check for each promise."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from rm_rec.histories import Queries
from rm_rec.segments import Cut, Timeline
from rm_rec.sources.base import states_at
from rm_rec.testing.contract import (
    Check,
    by_name,
    check_gradient,
    copy_of,
    expect,
    expect_attended_slices,
    expect_close,
    expect_finite,
    send_backward,
)
from rm_rec.testing.source_case import (
    LENGTH,
    RAGGED,
    TESTED,
    TOKEN_DIM,
    Make,
    Plant,
    SourceCase,
    changed,
    of_queries,
    of_users,
)
from rm_rec.testing.source_state import STATE


@torch.no_grad()
def an_answer_has_its_size(case: SourceCase) -> None:
    """An answer has `num_features` finite numbers for each query, also for a user without events."""
    memory, histories = case.memory(), case.histories()
    queries = case.everywhere(histories)
    answer = memory.answers(histories, queries)["answer"]
    expected = len(queries.user), memory.source.num_features
    expect(tuple(answer.shape) == expected, f"answers have shape {tuple(answer.shape)}, expected {expected}")
    expect(answer.dtype == torch.float32, f"answers are {answer.dtype}, expected torch.float32")
    expect_finite(answer, "an answer")


def attended_are_vectors_of_the_tokens_space(case: SourceCase) -> None:
    """The slices in `attended` are inside an answer, do not overlap, and have the size of a token."""
    expect_attended_slices(case.source().attended, case.source().num_features, TOKEN_DIM)


@torch.no_grad()
def an_answer_depends_on_the_history(case: SourceCase) -> None:
    """An answer depends on the user's events, unless the source has data that all users share."""
    memory, histories = case.memory(), case.histories((27,))
    queries = case.everywhere(histories)
    other = changed(histories, torch.ones(27, dtype=torch.bool), case.num_ids)
    first, second = (memory.answers(each, _at_the_end(queries)) for each in (histories, other))
    same = torch.equal(first["answer"], second["answer"])
    expect(case.plant is not None or not same, "another history of 27 events has the same answers")


@torch.no_grad()
def nothing_later_than_the_query_is_seen(case: SourceCase) -> None:
    """Events at or after a query's time do not affect its answer."""
    memory, length = case.memory(), 27
    # One copy of the user for each event; this event and all later ones are changed, and queries are before it.
    copies = of_users(case.histories((length,)), torch.zeros(length + 1, dtype=torch.int64))
    within = torch.arange(length).repeat(length + 1)
    other = changed(copies, within >= torch.arange(length + 1).repeat_interleave(length), case.num_ids)
    user, num_earlier = torch.tril_indices(length + 1, length + 1)
    queries = case.queries(copies, user, num_earlier)
    found, expected = (memory.answers(each, queries) for each in (other, copies))
    expect_close(found, expected, "after later events were changed", tolerance=1e-6)


@torch.no_grad()
def a_memory_answers_what_the_history_would(case: SourceCase) -> None:
    """A memory gives the same answers as the whole history, after any number of events."""
    histories = case.histories((27,))
    queries = case.queries(histories, torch.zeros(28, dtype=torch.int64), torch.arange(28))
    grown = of_users(histories, torch.zeros(28, dtype=torch.int64), end=torch.arange(28))
    served = replace(queries, user=torch.arange(28), num_earlier=None)
    for at_once in (2, 512):  # segments per stretch
        memory = case.memory(bptt_segments=at_once)
        kept = memory.whole.fold(memory.whole.initial(28), grown)
        found, expected = memory.own(memory.whole.answer(kept, served)), memory.answers(histories, queries)
        expect_close(found, expected, "from a memory after 0 to 27 events, not from the history,")


@torch.no_grad()
def users_and_queries_do_not_influence_each_other(case: SourceCase) -> None:
    """An answer does not depend on other queries and users, nor on their order."""
    memory, histories = case.memory(), case.histories()
    queries = case.everywhere(histories)
    together = memory.answers(histories, queries)["answer"]
    for row in range(0, len(queries.user), 3):
        own = torch.tensor([row])
        alone = memory.answers(histories, of_queries(queries, own))
        expect_close(alone, {"answer": together[own]}, "of a query alone")
    for user, length in enumerate(RAGGED):
        own = (queries.user == user).nonzero().flatten()
        asked = of_queries(queries, own)
        alone = memory.answers(
            of_users(histories, torch.tensor([user])), replace(asked, user=torch.zeros_like(asked.user))
        )
        expect_close(alone, {"answer": together[own]}, f"of a user of {length} events alone")
    order = torch.arange(len(queries.user)).flip(0)
    expect_close(memory.answers(histories, of_queries(queries, order)), {"answer": together[order]}, "in another order")


@torch.no_grad()
def answering_changes_nothing(case: SourceCase) -> None:
    """Answering does not change a memory, and a second call gives the same answers."""
    memory, histories = case.memory(), case.histories()
    kept = memory.whole.fold(memory.whole.initial(len(RAGGED)), histories)
    before = copy_of(kept.tensors())
    queries = replace(case.queries(histories, torch.arange(len(RAGGED)), histories.lengths), num_earlier=None)
    first = copy_of(memory.own(memory.whole.answer(kept, queries)))
    expect_close(kept.tensors(), before, "of a memory that answered", tolerance=0.0)
    expect_close(memory.own(memory.whole.answer(kept, queries)), first, "of a second time", tolerance=0.0)


@torch.no_grad()
def the_keys_it_names_reach_it(case: SourceCase) -> None:
    """Each key in `keys`, of an event or of a target, affects some answer."""
    memory, histories = case.memory(), case.histories()
    queries = case.everywhere(histories)
    if case.plant is not None:
        case.plant(memory.source, queries, 1)
    expected = memory.answers(histories, queries)["answer"]
    for name in memory.source.keys:
        event_keys = {**histories.keys, name: (histories.keys[name] + 1) % case.num_ids}
        target_keys = {**queries.keys, name: (queries.keys[name] + 1) % case.num_ids}
        other_events = memory.answers(replace(histories, keys=event_keys), queries)["answer"]
        other_targets = memory.answers(histories, replace(queries, keys=target_keys))["answer"]
        same = torch.equal(other_events, expected) and torch.equal(other_targets, expected)
        expect(not same, f"no answer depends on the key {name!r}: leave it out of `keys`")


@torch.no_grad()
def boundaries_matter_only_where_it_says(case: SourceCase) -> None:
    """If `needs_boundaries` is False, queries of one user get the same answers when they are all in one block."""
    source, histories = case.source(), case.histories()
    if source.needs_boundaries:
        return
    queries = case.everywhere(histories)
    timeline = Timeline.from_start(Cut(LENGTH, case.window_segments), histories, source.keys)
    answers = []
    for by_user in (False, True):
        (part,) = timeline.parts(queries, None, by_user=by_user)
        trace = source.fold(source.initial(histories.num_users), part.stretch.to_fold())
        states = states_at(trace, part.blocks.user, part.blocks.boundary)
        answers.append(part.blocks.layout.scatter(source.answer(part.blocks, states, part.stretch)))
    expect_close({"answer": answers[1]}, {"answer": answers[0]}, "of all queries of a user in one block")


@torch.no_grad()
def rows_of_others_are_earlier_than_the_query(case: SourceCase) -> None:
    """Data that all users share affects only later queries: not those at the same time, nor earlier ones."""
    if case.plant is None:
        return
    memory, histories = case.memory(), case.histories((5,))
    queries = case.queries(histories, torch.zeros(3, dtype=torch.int64), torch.full((3,), 5))
    time = int(queries.time[0]) + 1
    queries = replace(queries, time=torch.tensor([time - 1, time, time + 1]))
    before = copy_of(memory.answers(histories, queries))["answer"]
    case.plant(memory.source, queries, time)
    after = memory.answers(histories, queries)["answer"]
    for query, when in enumerate(("earlier than", "as late as")):
        same = torch.equal(after[query], before[query])
        expect(same, f"data of another user changed the answer of a query {when} it")
    expect(not torch.equal(after[2], before[2]), "planted data changed no answer of a later query: plant other data")


def gradients_are_finite_after_2000_events(case: SourceCase) -> None:
    """Gradients through 2,000 events are finite, for events, targets and weights."""
    memory, histories = case.memory(segment_length=20), case.histories((2000, 1200))
    memory.whole.train()
    queries = case.queries(histories, torch.tensor([0, 1, 1]), torch.tensor([2000, 1200, 1190]))
    assert histories.tokens is not None
    events, targets = histories.tokens.requires_grad_(), queries.tokens.requires_grad_()
    # Not the leaves themselves, whose gradients would be sparse.
    arguments = replace(histories, tokens=1.0 * events), replace(queries, tokens=1.0 * targets)
    answer = memory.answers(*arguments)["answer"]
    expect_finite(answer, "an answer after 2,000 events")
    if not answer.requires_grad:
        return  # the source has nothing to learn
    send_backward(answer.square().sum())
    named: dict[str, Tensor] = {"the events": events, "the targets": targets}
    for name, values in (named | dict(memory.source.named_parameters())).items():
        if values.grad is not None:
            check_gradient(values.grad, name)


def a_penalty_is_one_finite_number(case: SourceCase) -> None:
    """The penalty of a stretch is None or one finite number."""
    memory, histories = case.memory(bptt_segments=2), case.histories()
    queries = case.everywhere(histories)
    for stretch in memory.whole.stretches(histories, queries):
        read, last = (
            {name: state[f"{TESTED}_{name}"] for name in memory.source.state_parts()}
            for state in (stretch.state, stretch.last)
        )
        layout = stretch.blocks.layout
        for clicked in (torch.ones_like(layout.query).bool(), torch.zeros_like(layout.query).bool()):
            if (penalty := memory.source.penalty(stretch.blocks, clicked, read, last)) is not None:
                expect(penalty.shape == (), f"the penalty has shape {tuple(penalty.shape)}, expected one number")
                expect_finite(penalty, "the penalty")


def _at_the_end(queries: Queries) -> Queries:
    return replace(queries, time=torch.full_like(queries.time, 10_000_000))


SOURCE_CHECKS: Final[Mapping[str, Check[SourceCase]]] = by_name(
    (
        *STATE,
        an_answer_has_its_size,
        attended_are_vectors_of_the_tokens_space,
        an_answer_depends_on_the_history,
        nothing_later_than_the_query_is_seen,
        a_memory_answers_what_the_history_would,
        users_and_queries_do_not_influence_each_other,
        answering_changes_nothing,
        the_keys_it_names_reach_it,
        boundaries_matter_only_where_it_says,
        rows_of_others_are_earlier_than_the_query,
        gradients_are_finite_after_2000_events,
        a_penalty_is_one_finite_number,
    )
)


def check_source(make: Make, *, num_ids: int = 50, window_segments: int = 1, plant: Plant | None = None) -> None:
    """Check everything that answer sources promise, in a `UserMemory` with a window.

    `make(token_dim, segment_length)` returns the source. The keys that it reads are drawn below `num_ids`; the memory's
    window has the tail and `window_segments` full segments. A source with data that all users share needs
    `plant(source, queries, time)`, which adds such data, with this time, about the targets of the queries: it may
    affect the answers of later queries only. Raises ContractError for the first promise that is broken.

    >>> from rm_rec.config import RecentSegments
    >>> from rm_rec.sources.window import WindowSource
    >>> check_source(lambda token_dim, segment_length: WindowSource(RecentSegments(), token_dim, segment_length))
    """
    for check in SOURCE_CHECKS.values():
        check(SourceCase(make, num_ids, window_segments, plant))
