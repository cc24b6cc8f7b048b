"""The promises of every memory machine about writing: `initial`, `write` and `scan`."""

import torch
from torch import Tensor

from rm_rec.machines.base import MemoryMachine, State, after_last_event, last_state
from rm_rec.testing.contract import broken, copy_of, differ, expect, expect_close, expect_identical, send_backward
from rm_rec.testing.machine_case import (
    LENGTH,
    RAGGED,
    TOKEN_DIM,
    Folding,
    MachineCase,
    full_histories,
    histories,
    rows,
    state_at,
)


@torch.no_grad()
def initial_is_the_same_for_all(case: MachineCase) -> None:
    """The initial state is the same for every user and at each call."""
    folding = case.folding()
    first, second = copy_of(folding.initial(4)), folding.initial(4)
    expect_identical(second, first, "of a second call of initial")
    for name, values in first.items():
        expect(torch.equal(values, values[:1].expand_as(values)), f"{name!r} of initial differs between users")
    folding.scan(second, *full_histories(4, 2))
    expect_identical(folding.initial(4), first, "of initial after something was written")


@torch.no_grad()
def segments_of_padding_change_nothing(case: MachineCase) -> None:
    """A segment that is all padding leaves the state unchanged, bit by bit."""
    folding = case.folding()
    state = folding.written()
    segments, valid = histories()
    nothing = torch.zeros_like(valid)
    expect_identical(folding.write(state, segments[:, 0], nothing[:, 0]), state, "after writing padding")
    trace = folding.scan(state, segments, nothing)
    for boundary in range(segments.shape[1] + 1):
        expect_identical(state_at(trace, boundary), state, f"after scanning {boundary} segments of padding")


@torch.no_grad()
def users_without_events_keep_their_state(case: MachineCase) -> None:
    """A user without an event in a segment keeps its state bit by bit, while others' states change."""
    folding = case.folding()
    state = folding.written()
    segments, valid = histories()
    after = folding.write(state, segments[:, 0], valid[:, 0])
    nobody = slice(0, 1)
    expect_identical(rows(after, nobody), rows(state, nobody), "of a user without events beside others")
    for user in range(1, len(RAGGED)):
        own = slice(user, user + 1)
        expect(differ(rows(after, own), rows(state, own)), f"a segment of {RAGGED[user]} events changed no part")


@torch.no_grad()
def padding_does_not_matter(case: MachineCase) -> None:
    """The values of padding have no effect, wherever the padding is."""
    folding = case.folding()
    segments, valid = histories()
    valid[4, 2] = False
    valid[5, 0, :2] = False
    initial = folding.initial(len(RAGGED))
    expected = folding.scan(initial, segments, valid)
    for value in (0.0, -7.0, 1e6):
        other = folding.scan(initial, torch.where(valid[..., None], segments, value), valid)
        expect_close(other, expected, f"with {value:g} in padding", tolerance=1e-6)


@torch.no_grad()
def the_order_of_users_does_not_matter(case: MachineCase) -> None:
    """Each user has the same state if users are in another order."""
    folding = case.folding()
    segments, valid = histories()
    state = folding.written()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = folding.scan(rows(state, order), segments[order], valid[order])
    expect_close(shuffled, rows(folding.scan(state, segments, valid), order), "of users in another order")


@torch.no_grad()
def a_batch_equals_its_users_one_by_one(case: MachineCase) -> None:
    """A user's state does not depend on the other users of the batch."""
    folding = case.folding()
    segments, valid = histories()
    state = folding.written()
    together = folding.scan(state, segments, valid)
    for user, length in enumerate(RAGGED):
        own = slice(user, user + 1)
        alone = folding.scan(rows(state, own), segments[own], valid[own])
        expect_close(alone, rows(together, own), f"of a user of {length} events alone")


@torch.no_grad()
def two_calls_equal_one(case: MachineCase) -> None:
    """Folding a history in two calls gives the same states as folding it in one."""
    folding = case.folding()
    segments, valid = histories()
    initial = folding.initial(len(RAGGED))
    once = folding.scan(initial, segments, valid)
    for cut in (0, 1, 3, 6):
        first = folding.scan(initial, segments[:, :cut], valid[:, :cut])
        second = folding.scan(last_state(first), segments[:, cut:], valid[:, cut:])
        where = f"of two calls, cut after {cut} segments"
        expect_close(first, {name: values[:, : cut + 1] for name, values in once.items()}, where)
        expect_close(second, {name: values[:, cut:] for name, values in once.items()}, where)


@torch.no_grad()
def scan_equals_the_loop_over_write(case: MachineCase) -> None:
    """`scan` returns the states of a loop over `write`."""
    folding = case.folding()
    segments, valid = histories()
    # A segment of padding between real ones, and padding before a real event.
    valid[4, 2] = False
    valid[5, 0, :2] = False
    encoded = folding.encoder(segments, valid)
    for name, start in (("initial", folding.initial(len(RAGGED))), ("written", folding.written())):
        loop = MemoryMachine.scan(folding.machine, start, encoded, valid)
        found = folding.machine.scan(start, encoded, valid)
        expect_close(found, loop, f"of scan, from the {name} state")
        state = start
        for index in range(segments.shape[1]):
            state = folding.write(state, segments[:, index], valid[:, index])
        expect_close(last_state(found), state, f"at the end of scan, from the {name} state")


def fold_last_equals_the_end_of_scan(case: MachineCase) -> None:
    """`fold_last` returns the last state of `scan`, with the same gradients, and a state without events bit by bit."""
    folding = case.folding()
    segments, valid = histories()
    valid[4, 2] = False
    valid[5, 0, :2] = False
    whole = valid & valid.all(dim=2, keepdim=True)
    for where, each in (("", valid), (", of full segments alone", whole)):
        start = {name: values.detach() for name, values in folding.written().items()}
        arguments = {**start, "segments": segments, "valid": each}
        before = copy_of(arguments)
        found = folding.machine.fold_last(start, folding.encoder(segments, each), each)
        expect_identical(arguments, before, "given to fold_last")
        expected = after_last_event(folding.scan(start, segments, each), each)
        expect_close(found, expected, f"of fold_last{where}")
        nobody = slice(0, 1)
        expect_identical(rows(found, nobody), rows(start, nobody), "of fold_last, for a user without events")
        gradients = _gradients(folding, found), _gradients(folding, expected)
        expect_close(*gradients, f"of the gradient through fold_last{where}", tolerance=1e-4)
    empty = folding.machine.fold_last(folding.initial(0), segments[:0], valid[:0])
    sizes = {name: tuple(values.shape) for name, values in empty.items()}
    expected_sizes = {name: (0, *shape) for name, shape in folding.machine.state_spec().items()}
    expect(sizes == expected_sizes, f"fold_last of no users gives {sizes}, expected {expected_sizes}")


@torch.no_grad()
def a_trace_starts_with_the_state_that_came_in(case: MachineCase) -> None:
    """`scan` returns the state before the first segment, then one after each segment."""
    folding = case.folding()
    segments, valid = histories()
    state = folding.written()
    trace = folding.scan(state, segments, valid)
    expect_identical(state_at(trace, 0), state, "at the first boundary of a trace")
    expected = (len(RAGGED), segments.shape[1] + 1)
    for name, values in trace.items():
        expect(
            values.shape[:2] == expected,
            f"{name!r} of a trace has shape {tuple(values.shape)}, expected {expected} first",
        )


@torch.no_grad()
def writing_changes_none_of_its_inputs(case: MachineCase) -> None:
    """`write` and `scan` return new states, and do not change their arguments."""
    folding = case.folding()
    segments, valid = histories()
    state = folding.written()
    arguments = {**state, "segments": segments, "valid": valid}
    before = copy_of(arguments)
    folding.write(state, segments[:, 0], valid[:, 0])
    expect_identical(arguments, before, "given to write")
    folding.scan(state, segments, valid)
    expect_identical(arguments, before, "given to scan")


@torch.no_grad()
def a_later_event_changes_no_earlier_state(case: MachineCase) -> None:
    """An event changes the state after its segment, and no earlier state."""
    folding = case.folding()
    num_segments = 6
    changes = [(index, event) for index in range(num_segments) for event in (0, LENGTH - 1)]
    # One copy of the same user for each event that is changed.
    one, _ = full_histories(1, num_segments)
    segments, valid = (
        one.repeat(len(changes), 1, 1, 1),
        torch.ones(len(changes), num_segments, LENGTH, dtype=torch.bool),
    )
    changed = segments.clone()
    for user, (index, event) in enumerate(changes):
        changed[user, index, event] += 1.0
    initial = folding.initial(len(changes))
    trace, other = folding.scan(initial, segments, valid), folding.scan(initial, changed, valid)
    for user, (index, event) in enumerate(changes):
        where = f"before segment {index}, of which event {event} was changed,"
        earlier = [{name: values[user, : index + 1] for name, values in each.items()} for each in (other, trace)]
        expect_identical(earlier[0], earlier[1], where)
        after = [{name: values[user, index + 1] for name, values in each.items()} for each in (other, trace)]
        expect(differ(*after), f"event {event} of segment {index} changed nothing of the state after it")


def every_weight_changes_what_is_written(case: MachineCase) -> None:
    """All weights of a machine affect what is written; weights that only affect reading belong to a reader."""
    folding = case.folding(segment_length=20)
    segments, valid = full_histories(1, 32, length=20)
    before = last_state(folding.scan(folding.initial(1), segments, valid))
    parts = [values.square().sum() for values in before.values() if values.requires_grad]
    if parts:
        send_backward(torch.stack(parts).sum())
    with_gradient = {name for name, weight in folding.machine.named_parameters() if _any(weight.grad)}
    # Buffers, and weights of hard choices, affect the state without a gradient: change them and compare.
    for name, weight in folding.machine.state_dict().items():
        if name not in with_gradient:
            original = weight.clone()
            with torch.no_grad():
                weight.add_(torch.randn(original.shape, generator=torch.Generator().manual_seed(1)))
                after = last_state(folding.scan(folding.initial(1), segments, valid))
                weight.copy_(original)
            expect(differ(after, before), f"the state after 640 events does not depend on {name!r}")


@torch.no_grad()
def a_batch_without_users_has_a_trace(case: MachineCase) -> None:
    """A batch without users gives tensors whose first axis is empty."""
    folding = case.folding()
    nobody = folding.initial(0)
    trace = folding.scan(nobody, torch.zeros(0, 3, LENGTH, TOKEN_DIM), torch.ones(0, 3, LENGTH, dtype=torch.bool))
    expected = {name: (0, 4, *shape) for name, shape in folding.machine.state_spec().items()}
    found = {name: tuple(values.shape) for name, values in trace.items()}
    if found != expected:
        broken(f"the trace of no users is {found}, expected {expected}")


def _gradients(folding: Folding, state: State) -> dict[str, Tensor]:
    """Return the weights' gradients by the mean square of a state, by name."""
    folding.zero_grad()
    parts = [values.square().mean() for values in state.values() if values.requires_grad]
    if parts:
        send_backward(torch.stack(parts).sum())
    weights = {name: weight.grad for name, weight in folding.named_parameters()}
    return {name: gradient for name, gradient in weights.items() if gradient is not None}


def _any(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


WRITING = (
    initial_is_the_same_for_all,
    segments_of_padding_change_nothing,
    users_without_events_keep_their_state,
    padding_does_not_matter,
    the_order_of_users_does_not_matter,
    a_batch_equals_its_users_one_by_one,
    two_calls_equal_one,
    scan_equals_the_loop_over_write,
    fold_last_equals_the_end_of_scan,
    a_trace_starts_with_the_state_that_came_in,
    writing_changes_none_of_its_inputs,
    a_later_event_changes_no_earlier_state,
    every_weight_changes_what_is_written,
    a_batch_without_users_has_a_trace,
)
