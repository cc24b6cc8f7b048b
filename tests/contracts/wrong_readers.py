"""Readers that each break one promise, by the name of the check that must refuse them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rm_rec.machines.base import Slots
from rm_rec.readers.attention import AttentionReader, SlotAttention
from rm_rec.readers.base import Reader


class Changed(SlotAttention):
    """Attention that is asked, or answers, in some other way."""

    def forward(self, queries: Tensor, slots: Slots, recent: Tensor | None = None) -> Tensor:
        return self.change(super().forward(queries, self.shown(slots), recent), queries)

    def shown(self, slots: Slots) -> Slots:
        return slots

    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer


class OneNumberMore(SlotAttention):
    @property
    def num_features(self) -> int:
        return super().num_features + 1


class Overlapping(SlotAttention):
    @property
    def attended(self) -> list[slice]:
        return [slice(0, 8), slice(1, 9)]


class BeyondTheAnswer(SlotAttention):
    @property
    def attended(self) -> list[slice]:
        return [slice(4, 12)]


class AnswersNothing(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer + 1.0


class Silent(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return 0.0 * answer


class ReadsInvalidSlots(Changed):
    def shown(self, slots: Slots) -> Slots:
        return replace(slots, valid=torch.ones_like(slots.valid))


class KnowsPlaces(Changed):
    def shown(self, slots: Slots) -> Slots:
        return replace(slots, keys=slots.keys + torch.arange(slots.keys.shape[1])[:, None])


class ValuesFromKeys(Changed):
    def shown(self, slots: Slots) -> Slots:
        return replace(slots, values=slots.keys)


class DeafToTheQuery(SlotAttention):
    def forward(self, queries: Tensor, slots: Slots, recent: Tensor | None = None) -> Tensor:
        return super().forward(torch.ones_like(queries), slots, recent)


class Unweighted(Changed):
    def shown(self, slots: Slots) -> Slots:
        return replace(slots, log_weight=None)


class MixesBlocks(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer - answer.mean(dim=0)


class MixesQueries(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer - answer.mean(dim=1, keepdim=True)


class ReadsInPlace(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        queries.mul_(2.0)
        return answer


class NeedsRecent(SlotAttention):
    def forward(self, queries: Tensor, slots: Slots, recent: Any = None) -> Tensor:
        return super().forward(queries + recent, slots, recent)


class UnsavedWeight(Changed):
    def __init__(self, config: AttentionReader, token_dim: int, slot_dim: int) -> None:
        super().__init__(config, token_dim, slot_dim)
        self.scale = torch.randn(())

    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer * self.scale


class RootOfAZero(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer.abs().sqrt()


class Exponential(Changed):
    def change(self, answer: Tensor, queries: Tensor) -> Tensor:
        return answer.exp() - 1.0


class OnePenalty(SlotAttention):
    needs_labels = True

    def penalty(self, queries: Tensor, slots: Slots, clicked: Tensor) -> Any:
        return queries.sum()


class UnaskedPenalty(SlotAttention):
    def penalty(self, queries: Tensor, slots: Slots, clicked: Tensor) -> Tensor:
        return queries.sum(dim=2)


class PenaltyWithoutClicks(SlotAttention):
    def penalty(self, queries: Tensor, slots: Slots, clicked: Tensor) -> Tensor | None:
        return None if clicked.any() else queries.sum(dim=2)


class NoPenalty(SlotAttention):
    needs_labels = True


# By the check that must refuse them: the reader, and what is seen.
WRONG_READERS: dict[str, list[tuple[type[Reader], str]]] = {
    "an_answer_has_its_size": [(OneNumberMore, "shape (5, 3, 9), expected (5, 3, 10)")],
    "attended_are_vectors_of_the_tokens_space": [(Overlapping, "overlaps"), (BeyondTheAnswer, "has 9 numbers")],
    "a_memory_without_a_valid_slot_answers_zero": [
        (AnswersNothing, "the answer's largest value is 1"),
        (Silent, "the answer is zero with a valid slot"),
    ],
    "invalid_slots_do_not_matter": [(ReadsInvalidSlots, "with 0 in slots that are not valid")],
    "the_order_of_slots_does_not_matter": [(KnowsPlaces, "in another order")],
    "slots_keys_and_values_are_read": [(ValuesFromKeys, "on the values"), (DeafToTheQuery, "on the query")],
    "log_weight_is_added_to_a_slots_logit": [(Unweighted, "with a slot of log_weight -1e9")],
    "blocks_do_not_influence_each_other": [(MixesBlocks, "of a block alone")],
    "queries_do_not_influence_each_other": [(MixesQueries, "of a query alone")],
    "reading_changes_nothing": [(ReadsInPlace, "'queries' given to the reader")],
    "recent_may_be_missing": [(NeedsRecent, "TypeError was raised")],
    "saving_and_loading_is_exact": [(UnsavedWeight, "with loaded weights")],
    "gradients_are_finite": [(RootOfAZero, "are NaN or infinite")],
    "extreme_values_are_finite": [
        (Exponential, "values of the answer for inputs that are a thousand times as large are NaN")
    ],
    "a_penalty_is_a_number_for_each_query": [
        (OnePenalty, "shape (), expected (5, 3)"),
        (UnaskedPenalty, "needs_labels is False"),
        (PenaltyWithoutClicks, "needs_labels is False"),
        (NoPenalty, "needs_labels is True"),
    ],
}
