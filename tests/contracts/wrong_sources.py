"""Sources of answers that each break one promise, by the name of the check that must refuse them."""

from typing import Any

import torch
from torch import Tensor, nn

from rm_rec.machines.base import State, StateTrace
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart
from rm_rec.testing import SourceCase
from tests.contracts.counting_source import CountingSource
from tests.contracts.everyones_counts import EveryonesCounts, plant


class OtherType(CountingSource):
    def state_parts(self) -> dict[str, StatePart]:
        return {"count": StatePart((16,), torch.uint8)}


class DrawnStart(CountingSource):
    def initial(self, num_users: int) -> State:
        return {"count": torch.randint(1000, (num_users, 16))}


class Changed(CountingSource):
    """A counter whose trace or answer is changed in some way."""

    def fold(self, state: State, segments: Segments) -> StateTrace:
        return {"count": self.change(super().fold(state, segments)["count"])}

    def change(self, count: Tensor) -> Tensor:
        return count

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        return self.said(super().answer(queries, state, recent), queries)

    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        return answer


class ForgetsTheFirst(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count * (torch.arange(count.shape[1]) > 0)[:, None]


class Deaf(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count[:, :1].expand_as(count)


class FoldsInPlace(Changed):
    def fold(self, state: State, segments: Segments) -> StateTrace:
        state["count"].add_(1)
        return super().fold(state, segments)


class CountsSegments(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count + torch.arange(count.shape[1])[:, None]


class SeesPadding(CountingSource):
    def fold(self, state: State, segments: Segments) -> StateTrace:
        met = self._bucket(segments.keys["item"]).sum(dim=2)
        return {"count": torch.cat([state["count"][:, None], met], dim=1).cumsum(dim=1)}


class MixesUsers(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count + count.sum(dim=0)


class StartsAnew(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count + (torch.arange(count.shape[1]) > 0)[:, None]


class LooksAhead(Changed):
    def change(self, count: Tensor) -> Tensor:
        return count + count[:, -1:]


class RoundsItsCounts(CountingSource):
    def state_parts(self) -> dict[str, StatePart]:
        return {"count": StatePart((16,))}

    def fold(self, state: State, segments: Segments) -> StateTrace:
        return {"count": super().fold(state, segments)["count"].float()}


class UnsavedWeight(Changed):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.randn(())

    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        return answer * self.scale


class OneNumberMore(CountingSource):
    num_features = 3


class BeyondTheAnswer(CountingSource):
    @property
    def attended(self) -> list[slice]:
        return [slice(0, 8)]


class Silent(Changed):
    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        return 0.0 * answer


class SeesTheFuture(CountingSource):
    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        same = queries.keys["item"][..., None] == recent.segments.keys["item"].flatten(1)[queries.user][:, None]
        seen = (same & recent.segments.valid.flatten(1)[queries.user][:, None]).sum(dim=2, keepdim=True)
        return torch.cat([seen, seen], dim=2).float()


class ReadsTheWholeLog(CountingSource):
    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        items = recent.segments.keys["item"].flatten(1)[queries.user][:, None]
        place = torch.arange(items.shape[2])
        visible = (place < queries.num_visible[..., None]) & (place >= recent.lead[queries.user][:, None, None])
        seen = ((queries.keys["item"][..., None] == items) & visible).sum(dim=2, keepdim=True)
        return torch.cat([seen, seen], dim=2).float()


class MixesQueries(Changed):
    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        return answer + answer.mean()


class CountsQuestions(Changed):
    asked = 0

    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        self.asked += 1
        return answer + self.asked


class UnreadKey(CountingSource):
    keys = ("item", "category")


class UnnamedKey(CountingSource):
    keys = ()


class NoBoundaries(CountingSource):
    needs_boundaries = False


class AsLate(EveryonesCounts):
    def earlier(self, queries: QueryBlocks) -> Tensor:
        return self.times <= queries.time[..., None]


class RootOfAZero(Changed):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def said(self, answer: Tensor, queries: QueryBlocks) -> Tensor:
        return answer + (0.0 * self.weight).sqrt()


class PenaltyOfEachQuery(CountingSource):
    def penalty(self, queries: QueryBlocks, clicked: Tensor, state: State, last: State) -> Any:
        return queries.time.float()


class LosesTheLast(CountingSource):
    def fold_last(self, state: State, segments: Segments) -> State:
        return super().fold_last(state, segments.between(0, -1))


def case(source: type[AnswerSource]) -> SourceCase:
    return SourceCase(lambda token_dim, segment_length: source())


EVERYONES = SourceCase(lambda token_dim, segment_length: AsLate(), plant=plant)
NOTHING_PLANTED = SourceCase(
    lambda token_dim, segment_length: EveryonesCounts(), plant=lambda source, queries, time: None
)
# By the check that must refuse them: the case, and what is seen.
WRONG_SOURCES: dict[str, list[tuple[SourceCase, str]]] = {
    "a_state_has_the_parts_it_says": [(case(OtherType), "torch.int64), expected ((2, 16), torch.uint8)")],
    "initial_is_the_same_for_all": [(case(DrawnStart), "second call")],
    "a_trace_starts_with_the_state_that_came_in": [(case(ForgetsTheFirst), "first boundary")],
    "folding_changes_the_state": [(case(Deaf), "4 more events of a user changed no part")],
    "folding_changes_none_of_its_inputs": [(case(FoldsInPlace), "'count' given to fold")],
    "empty_segments_change_nothing": [(case(CountsSegments), "after 1 segments that are not valid")],
    "padding_does_not_matter": [(case(SeesPadding), "in padding")],
    "users_are_not_mixed": [(case(MixesUsers), "of a user of 0 events alone")],
    "two_calls_equal_one": [(case(StartsAnew), "cut after 1 segments")],
    "fold_last_equals_the_end_of_fold": [(case(LosesTheLast), "of fold_last")],
    "folding_night_by_night_equals_folding_at_once": [(case(StartsAnew), "updated in four nights")],
    "a_later_event_changes_no_earlier_state": [(case(LooksAhead), "before segment 0")],
    "what_grows_with_the_history_is_kept_exactly": [(case(RoundsItsCounts), "is not exact")],
    "saving_and_loading_is_exact": [(case(UnsavedWeight), "with loaded weights")],
    "an_answer_has_its_size": [(case(OneNumberMore), "expected (52, 3)")],
    "attended_are_vectors_of_the_tokens_space": [(case(BeyondTheAnswer), "an answer has 2 numbers")],
    "an_answer_depends_on_the_history": [(case(Silent), "another history of 27 events has the same answers")],
    "nothing_later_than_the_query_is_seen": [(case(SeesTheFuture), "after later events were changed")],
    "a_memory_answers_what_the_history_would": [(case(ReadsTheWholeLog), "not from the history")],
    "users_and_queries_do_not_influence_each_other": [(case(MixesQueries), "of a query alone")],
    "answering_changes_nothing": [(case(CountsQuestions), "of a second time")],
    "the_keys_it_names_reach_it": [
        (case(UnreadKey), "no answer depends on the key 'category'"),
        (case(UnnamedKey), "KeyError was raised: 'item'"),
    ],
    "boundaries_matter_only_where_it_says": [(case(NoBoundaries), "of all queries of a user in one block")],
    "rows_of_others_are_earlier_than_the_query": [
        (EVERYONES, "of a query as late as it"),
        (NOTHING_PLANTED, "plant other data"),
    ],
    "gradients_are_finite_after_2000_events": [(case(RootOfAZero), "1 of 1 values of the gradient of weight are NaN")],
    "a_penalty_is_one_finite_number": [(case(PenaltyOfEachQuery), "expected one number")],
}
