"""What every memory machine promises, alone and behind each encoder.

A new machine gets all of it by being in MACHINES.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rm_rec.config import Encoder, Machine, OutsideSettings
from rm_rec.encoder import build_encoder
from rm_rec.machines import MACHINES, build_machine
from rm_rec.machines.base import MemoryMachine, Slots, State, StateTrace
from rm_rec.machines.sizes import state_bytes
from tests.fakes import ENCODERS, KINDS, scrambled

DIM, LENGTH = 8, 4
# Events of each user: none, less than a segment, exactly one, many, and not a whole number of segments.
RAGGED = (0, 1, 3, 4, 24, 11)


class Folding(nn.Module):
    """A machine behind an encoder: what is done with a segment in a model."""

    def __init__(self, kind: str, encoder: str, segment_length: int = LENGTH) -> None:
        super().__init__()
        config: Encoder = TypeAdapter(Encoder).validate_python({"kind": encoder})
        machine: Machine = TypeAdapter(Machine).validate_python({"kind": kind})
        self.encoder = build_encoder(config, DIM, segment_length)
        built = build_machine(machine, DIM)
        assert built is not None
        self.machine: MemoryMachine = built

    def initial(self, num_users: int) -> State:
        return self.machine.initial(num_users)

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        return self.machine.write(state, self.encoder(segment, valid), valid)

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        return self.machine.scan(state, self.encoder(segments, valid), valid)


@pytest.fixture(params=[(kind, encoder) for kind in KINDS for encoder in ENCODERS], ids="-".join)
def names(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def folding(names: tuple[str, str]) -> Iterator[Folding]:
    """With scrambled weights, so that nothing hides behind what starts at zero."""
    with torch.no_grad():
        yield scrambled(Folding(*names))


def histories(lengths: tuple[int, ...] = RAGGED, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Draw segments [U, S, N, D] and which events are real."""
    num_segments = -(-max(lengths) // LENGTH)
    generator = torch.Generator().manual_seed(seed)
    segments = torch.randn(len(lengths), num_segments, LENGTH, DIM, generator=generator)
    valid = torch.arange(num_segments * LENGTH) < torch.tensor(lengths)[:, None]
    return segments, valid.view(len(lengths), num_segments, LENGTH)


def written(folding: Folding, users: int = len(RAGGED)) -> State:
    """A state that holds something."""
    segments, valid = histories((24,) * users, seed=2)
    return at(folding.scan(folding.initial(users), segments, valid), -1)


def at(trace: StateTrace, boundary: int) -> State:
    return {name: values[:, boundary] for name, values in trace.items()}


def close(found: State, expected: State, atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=atol, rtol=0)


def identical(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


def copy(state: State) -> State:
    return {name: values.clone() for name, values in state.items()}


def test_every_machine_can_be_configured_by_the_name_it_has_in_the_table() -> None:
    assert {kind: machine.config_type().kind for kind, machine in MACHINES.items()} == {kind: kind for kind in MACHINES}
    *configs, others = get_args(get_args(Machine)[0])
    assert [config().kind for config in configs] == [*MACHINES, "none"]
    assert others is OutsideSettings


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_builds_the_class_it_names(kind: str) -> None:
    config: Machine = TypeAdapter(Machine).validate_python({"kind": kind})
    assert type(build_machine(config, DIM)) is MACHINES[kind]


def test_a_segment_of_padding_leaves_the_state_bit_by_bit(folding: Folding) -> None:
    state = written(folding)
    segments, valid = histories()
    valid[:] = False
    identical(folding.write(state, segments[:, 0], valid[:, 0]), state)
    trace = folding.scan(state, segments, valid)
    for boundary in range(segments.shape[1] + 1):
        identical(at(trace, boundary), state)


def test_a_user_without_events_keeps_its_state_bit_by_bit_beside_others(folding: Folding) -> None:
    state = written(folding)
    segments, valid = histories()
    after = folding.write(state, segments[:, 0], valid[:, 0])
    for name, values in after.items():
        assert torch.equal(values[0], state[name][0])
        assert not torch.equal(values[1:], state[name][1:])


@pytest.mark.parametrize("garbage", [0.0, -7.0, 1e6])
def test_what_padding_holds_does_not_matter(folding: Folding, garbage: float) -> None:
    segments, valid = histories()
    other = torch.where(valid[..., None], segments, garbage)
    initial = folding.initial(len(RAGGED))
    close(folding.scan(initial, other, valid), folding.scan(initial, segments, valid), atol=1e-6)


def test_the_order_of_users_does_not_matter(folding: Folding) -> None:
    segments, valid = histories()
    state = written(folding)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = folding.scan({name: values[order] for name, values in state.items()}, segments[order], valid[order])
    close(shuffled, {name: values[order] for name, values in folding.scan(state, segments, valid).items()})


def test_a_batch_equals_its_users_one_by_one(folding: Folding) -> None:
    segments, valid = histories()
    state = written(folding)
    together = folding.scan(state, segments, valid)
    for user in range(len(RAGGED)):
        own = slice(user, user + 1)
        alone = folding.scan({name: values[own] for name, values in state.items()}, segments[own], valid[own])
        close(alone, {name: values[own] for name, values in together.items()})


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_two_calls_equal_one_pass(folding: Folding, cut: int) -> None:
    segments, valid = histories()
    once = folding.scan(folding.initial(len(RAGGED)), segments, valid)
    first = folding.scan(folding.initial(len(RAGGED)), segments[:, :cut], valid[:, :cut])
    second = folding.scan(at(first, -1), segments[:, cut:], valid[:, cut:])
    close(first, {name: values[:, : cut + 1] for name, values in once.items()})
    close(second, {name: values[:, cut:] for name, values in once.items()})


def test_scan_equals_the_loop_over_write(folding: Folding) -> None:
    segments, valid = histories()
    # A segment of padding between real ones, and padding before a real event.
    valid[4, 2] = False
    valid[5, 0, :2] = False
    for start in (folding.initial(len(RAGGED)), written(folding)):
        encoded = folding.encoder(segments, valid)
        close(folding.machine.scan(start, encoded, valid), MemoryMachine.scan(folding.machine, start, encoded, valid))
        state = start
        for index in range(segments.shape[1]):
            state = folding.write(state, segments[:, index], valid[:, index])
        close(at(folding.scan(start, segments, valid), -1), state)


def test_a_trace_starts_with_the_state_that_came_in(folding: Folding) -> None:
    segments, valid = histories()
    state = written(folding)
    trace = folding.scan(state, segments, valid)
    identical(at(trace, 0), state)
    assert all(values.shape[:2] == (len(RAGGED), segments.shape[1] + 1) for values in trace.values())


def test_saved_and_loaded_weights_and_states_are_exact(
    folding: Folding, names: tuple[str, str], tmp_path: Path
) -> None:
    segments, valid = histories()
    state = written(folding)
    save_file(folding.state_dict(), tmp_path / "weights.safetensors")
    save_file({name: values.contiguous() for name, values in state.items()}, tmp_path / "state.safetensors")
    again = scrambled(Folding(*names), seed=5)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    loaded = load_file(tmp_path / "state.safetensors")
    identical(loaded, state)
    identical(again.initial(3), folding.initial(3))
    identical(again.scan(loaded, segments, valid), folding.scan(state, segments, valid))


@pytest.mark.parametrize("num_segments", [0, 1, 50])
def test_a_state_has_the_size_its_spec_says_however_much_was_written(folding: Folding, num_segments: int) -> None:
    spec = folding.machine.state_spec()
    state = folding.initial(2)
    trace = folding.scan(
        state,
        torch.randn(2, num_segments, LENGTH, DIM, generator=torch.Generator().manual_seed(0)),
        torch.ones(2, num_segments, LENGTH, dtype=torch.bool),
    )
    for found in (state, at(trace, -1)):
        assert {name: tuple(values.shape[1:]) for name, values in found.items()} == spec
        assert all(len(values) == 2 and values.dtype == torch.float32 for values in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_the_default_size_is_at_most_2_kb(kind: str) -> None:
    config: Machine = TypeAdapter(Machine).validate_python({"kind": kind})
    machine = build_machine(config, token_dim=32)
    assert machine is not None
    assert set(machine.exact_parts) <= set(machine.state_spec())
    assert state_bytes(machine) <= 2048


def test_what_grows_with_the_history_is_kept_exactly(folding: Folding) -> None:
    """Memories are float16 by default, in which a sum or a count stands still after some thousand events."""
    generator = torch.Generator().manual_seed(0)
    segments = 1.0 + torch.randn(1, 120, LENGTH, DIM, generator=generator)
    trace = folding.scan(folding.initial(1), segments, torch.ones(segments.shape[:3], dtype=torch.bool))
    halves = {name: (values[:, :61].abs().max(), values[:, 61:].abs().max()) for name, values in trace.items()}
    growing = {name for name, (first, second) in halves.items() if second > 1.5 * first + 1}
    assert growing <= set(folding.machine.exact_parts)


def test_a_batch_without_users_has_a_trace(folding: Folding) -> None:
    trace = folding.scan(folding.initial(0), torch.zeros(0, 3, LENGTH, DIM), torch.ones(0, 3, LENGTH, dtype=torch.bool))
    assert {name: tuple(values.shape) for name, values in trace.items()} == {
        name: (0, 4, *shape) for name, shape in folding.machine.state_spec().items()
    }


def test_reading_changes_nothing(folding: Folding) -> None:
    state = written(folding)
    before = copy(state)
    first = folding.machine.slots(state)
    kept = [part.clone() for part in (first.keys, first.values, first.valid)]
    second = folding.machine.slots(state)
    identical(state, before)
    for found, expected in zip((second.keys, second.values, second.valid), kept, strict=True):
        assert torch.equal(found, expected)


def test_slots_have_the_size_that_readers_are_built_for(folding: Folding) -> None:
    for state in (folding.initial(2), written(folding, 2)):
        slots = folding.machine.slots(state)
        assert slots.keys.shape[2] == slots.values.shape[2] == folding.machine.slot_dim
        assert slots.keys.shape[:2] == slots.values.shape[:2] == slots.valid.shape
        assert torch.isfinite(slots.keys).all()
        assert torch.isfinite(slots.values).all()
        if slots.log_weight is not None:
            assert slots.log_weight.shape == slots.valid.shape
            assert torch.isfinite(slots.log_weight).all()
    assert slots.valid.any(), "what was written can be read"


def test_writing_changes_none_of_its_inputs(folding: Folding) -> None:
    segments, valid = histories()
    state = written(folding)
    before, segments_before, valid_before = copy(state), segments.clone(), valid.clone()
    folding.write(state, segments[:, 0], valid[:, 0])
    folding.scan(state, segments, valid)
    identical(state, before)
    assert torch.equal(segments, segments_before)
    assert torch.equal(valid, valid_before)


def test_a_later_event_changes_no_earlier_state(folding: Folding) -> None:
    segments, valid = histories((24,) * 3)
    initial = folding.initial(3)
    trace = folding.scan(initial, segments, valid)
    for index in range(segments.shape[1]):
        for event in (0, LENGTH - 1):
            changed = segments.clone()
            changed[:, index, event] += 1.0
            other = folding.scan(initial, changed, valid)
            close(
                {name: values[:, : index + 1] for name, values in other.items()},
                {name: values[:, : index + 1] for name, values in trace.items()},
                atol=0.0,
            )
            assert any(not torch.equal(at(other, index + 1)[name], at(trace, index + 1)[name]) for name in trace)


def test_two_calls_of_initial_are_equal_and_every_user_starts_alike(folding: Folding) -> None:
    first, second = copy(folding.initial(4)), folding.initial(4)
    identical(second, first)
    for values in first.values():
        assert torch.equal(values, values[:1].expand_as(values))
    segments, valid = histories((8,) * 4)
    folding.scan(second, segments, valid)
    identical(folding.initial(4), first)


@pytest.mark.parametrize("scramble", [False, True], ids=["fresh", "scrambled"])
def test_gradients_are_finite_after_2000_events(names: tuple[str, str], scramble: bool) -> None:
    torch.manual_seed(0)
    folding = Folding(*names, segment_length=20)
    if scramble:
        scrambled(folding)
    events = torch.randn(2, 100, 20, DIM, requires_grad=True)
    valid = torch.ones(2, 100, 20, dtype=torch.bool)
    valid[1, 60:] = False
    state = at(folding.scan(folding.initial(2), events, valid), -1)
    slots = folding.machine.slots(state)
    weights = slots.log_weight.masked_fill(~slots.valid, 0.0) if slots.log_weight is not None else slots.values
    (slots.keys.square().sum() + slots.values.square().sum() + weights.square().sum()).backward()
    assert events.grad is not None
    assert torch.isfinite(events.grad).all()
    assert events.grad[0, -1].abs().sum() > 0
    assert not events.grad[1, 60:].any()
    for name, weight in folding.machine.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("num_segments", [0, 1, 12])
def test_slots_differ_from_each_other(names: tuple[str, str], num_segments: int) -> None:
    torch.manual_seed(0)
    folding = Folding(*names)
    slots: Slots = folding.machine.slots(
        at(
            folding.scan(
                folding.initial(2),
                torch.randn(2, num_segments, LENGTH, DIM),
                torch.ones(2, num_segments, LENGTH, dtype=torch.bool),
            ),
            -1,
        )
    )
    distances = torch.cdist(slots.keys, slots.keys) + torch.cdist(slots.values, slots.values)
    apart = ~torch.eye(slots.keys.shape[1], dtype=torch.bool)
    assert (distances[:, apart] > 1e-2).all()
