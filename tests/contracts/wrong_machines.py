"""Machines that each break one promise, by the name of the check that must refuse them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rm_rec.machines.base import Slots, State, StateTrace
from rm_rec.machines.mean_pool import MeanPool, MeanPoolMachine
from rm_rec.machines.ring_buffer import RingBuffer, RingBufferMachine
from rm_rec.machines.rum import RumMachine
from rm_rec.testing import MachineCase


class OthersSettings(MeanPoolMachine):
    config_type = RingBuffer


class OnePartMore(MeanPoolMachine):
    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        trace = super().scan(state, segments, valid)
        return trace | {"more": trace["count"]}


class WholeNumbers(MeanPoolMachine):
    def initial(self, num_users: int) -> State:
        return super().initial(num_users) | {"count": torch.zeros(num_users, dtype=torch.int64)}


class DrawnStart(MeanPoolMachine):
    def initial(self, num_users: int) -> State:
        return {"sum": torch.randn(1, self.slot_dim).expand(num_users, -1), "count": torch.zeros(num_users)}


class NumberedUsers(MeanPoolMachine):
    def initial(self, num_users: int) -> State:
        return super().initial(num_users) | {"count": torch.arange(num_users).float()}


class Changed(MeanPoolMachine):
    """A mean pool whose trace is changed in some way."""

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        trace = super().scan(state, segments, valid)
        return trace | {"sum": self.change(trace["sum"], segments)}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        trace = self.scan(state, segment[:, None], valid[:, None])
        return {name: values[:, -1] for name, values in trace.items()}

    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total


class CountsSegments(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total + torch.arange(total.shape[1])[:, None]


class Deaf(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total[:, :1].expand_as(total)

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        trace = super().scan(state, segments, valid)
        return trace | {"count": trace["count"][:, :1].expand_as(trace["count"])}


class SeesPadding(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return torch.cat([total[:, :1], total[:, :1] + segments.sum(dim=2).cumsum(dim=1)], dim=1)


class KnowsPositions(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total + torch.arange(len(total))[:, None, None]


class MixesUsers(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total - total.mean(dim=0)


class StartsAnew(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return torch.cat([total[:, :1], total[:, 1:] + 1.0], dim=1)


class LosesTheLast(MeanPoolMachine):
    def fold_last(self, state: State, segments: Tensor, valid: Tensor) -> State:
        return super().fold_last(state, segments[:, :-1], valid[:, :-1])


class LosesGradients(RumMachine):
    def fold_last(self, state: State, segments: Tensor, valid: Tensor) -> State:
        return {name: values.detach() for name, values in super().fold_last(state, segments, valid).items()}


class WritesOtherwise(MeanPoolMachine):
    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        after = super().write(state, segment, valid)
        return after | {"count": after["count"] + valid.sum(dim=1)}


class StopsAtAnEmptySegment(Changed):
    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        begun = valid.any(dim=2).cumprod(dim=1).bool()
        return super().scan(state, segments, valid & begun[..., None])


class ForgetsTheFirst(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total.masked_fill((torch.arange(total.shape[1]) == 0)[:, None], 0.0)


class WritesInPlace(Changed):
    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        segments.mul_(2.0)
        return super().scan(state, segments, valid)


class LooksAhead(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total + segments.mean(dim=(1, 2))[:, None]


class ReadsByAWeight(MeanPoolMachine):
    def __init__(self, config: MeanPool, token_dim: int) -> None:
        super().__init__(config, token_dim)
        self.key = nn.Parameter(torch.ones(token_dim))

    def slots(self, state: State) -> Slots:
        slots = super().slots(state)
        return replace(slots, keys=slots.keys * self.key)


class NeedsUsers(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total + 0.0 * segments.max()


class RoundsItsSums(MeanPoolMachine):
    exact_parts = ()


class UnsavedWeight(Changed):
    def __init__(self, config: MeanPool, token_dim: int) -> None:
        super().__init__(config, token_dim)
        self.scale = torch.randn(())

    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total * self.scale


class ReadsInPlace(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        state["count"].add_(1.0)
        return super().slots(state)


class OtherSlotDim(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        slots = super().slots(state)
        return replace(slots, values=slots.values[..., 1:])


class NothingToRead(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        slots = super().slots(state)
        return replace(slots, valid=torch.zeros_like(slots.valid))


class OneUserAlone(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        slots = super().slots(state)
        return replace(slots, valid=slots.valid & (torch.arange(len(slots.valid)) == 0)[:, None])


class DividesByNothing(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        mean = (state["sum"] / state["count"][:, None])[:, None]
        return Slots(mean, mean, (state["count"] > 0)[:, None])


class Twins(MeanPoolMachine):
    def slots(self, state: State) -> Slots:
        one = super().slots(state)
        return Slots(*(torch.cat([part, part], dim=1) for part in (one.keys, one.values, one.valid)))


class Detached(Changed):
    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total.detach()


class RootOfAZero(Changed):
    """Its weight starts at zero, where a length has no gradient."""

    def __init__(self, config: MeanPool, token_dim: int) -> None:
        super().__init__(config, token_dim)
        self.weight = nn.Parameter(torch.zeros(token_dim))

    def change(self, total: Tensor, segments: Tensor) -> Tensor:
        return total * (1.0 + self.weight.square().sum().sqrt())


class PenaltyOfEachUser(MeanPoolMachine):
    def penalty(self, state: State) -> Any:
        return state["count"]


MANY_EVENTS = MachineCase(RingBufferMachine, RingBuffer(num_slots=40))
# By the check that must refuse them: the case, and what is seen.
WRONG_MACHINES: dict[str, list[tuple[MachineCase, str]]] = {
    "settings_are_the_machines_own": [
        (MachineCase(OthersSettings, MeanPool()), "MeanPool, its config_type RingBuffer")
    ],
    "a_state_has_the_size_its_spec_says": [
        (MachineCase(OnePartMore), "'more'"),
        (MachineCase(WholeNumbers), "torch.int64"),
    ],
    "a_state_is_small": [(MANY_EVENTS, "takes 2564 bytes, expected at most 2048")],
    "initial_is_the_same_for_all": [
        (MachineCase(DrawnStart), "second call"),
        (MachineCase(NumberedUsers), "between users"),
    ],
    "segments_of_padding_change_nothing": [(MachineCase(CountsSegments), "'sum' after writing padding")],
    "users_without_events_keep_their_state": [
        (MachineCase(CountsSegments), "without events beside others"),
        (MachineCase(Deaf), "a segment of 1 events changed no part"),
    ],
    "padding_does_not_matter": [(MachineCase(SeesPadding), "'sum' with 0 in padding")],
    "the_order_of_users_does_not_matter": [(MachineCase(KnowsPositions), "in another order")],
    "a_batch_equals_its_users_one_by_one": [(MachineCase(MixesUsers), "of a user of 0 events alone")],
    "two_calls_equal_one": [(MachineCase(StartsAnew), "cut after 1 segments")],
    "fold_last_equals_the_end_of_scan": [
        (MachineCase(LosesTheLast), "of fold_last"),
        (MachineCase(LosesGradients), "of the gradient through fold_last"),
    ],
    "scan_equals_the_loop_over_write": [
        (MachineCase(WritesOtherwise), "of scan, from the initial state"),
        (MachineCase(StopsAtAnEmptySegment), "of scan, from the initial state"),
    ],
    "a_trace_starts_with_the_state_that_came_in": [(MachineCase(ForgetsTheFirst), "first boundary")],
    "writing_changes_none_of_its_inputs": [(MachineCase(WritesInPlace), "'segments' given to write")],
    "a_later_event_changes_no_earlier_state": [
        (MachineCase(LooksAhead), "before segment 0"),
        (MachineCase(Deaf), "changed nothing of the state after it"),
    ],
    "every_weight_changes_what_is_written": [(MachineCase(ReadsByAWeight), "does not depend on 'key'")],
    "a_batch_without_users_has_a_trace": [(MachineCase(NeedsUsers), "RuntimeError was raised")],
    "what_grows_with_the_history_is_kept_exactly": [(MachineCase(RoundsItsSums), "['count', 'sum'] grow")],
    "saving_and_loading_is_exact": [(MachineCase(UnsavedWeight), "of scan, with loaded weights")],
    "reading_changes_nothing": [(MachineCase(ReadsInPlace), "'count' of a state that was read")],
    "slots_have_the_size_that_readers_are_built_for": [
        (MachineCase(OtherSlotDim), "expected"),
        (MachineCase(NothingToRead), "no slot of a user is valid"),
        (MachineCase(OneUserAlone), "no slot of a user is valid"),
        (MachineCase(DividesByNothing), "16 of 16 values of keys of the initial state are NaN or infinite"),
    ],
    "slots_differ_from_each_other": [(MachineCase(Twins), "two slots are 0 apart after 0 segments")],
    "gradients_are_finite_after_2000_events": [(MachineCase(Detached), "element 0 of tensors does not require grad")],
    "gradients_are_finite_when_training_starts": [
        (MachineCase(RootOfAZero), "values of the gradient of weight 'weight' are NaN")
    ],
    "a_penalty_is_one_finite_number": [(MachineCase(PenaltyOfEachUser), "shape (0,), expected one number")],
}
