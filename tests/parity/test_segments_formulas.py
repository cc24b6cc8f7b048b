"""Bins, stretches of histories and blocks of queries equal slow loops, element by element."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rm_rec.histories import TOKENS, Histories, Queries
from rm_rec.memory_state import MemoryState, join, remembered
from rm_rec.query_blocks import group_queries
from rm_rec.segments import JOINED, Cut, Segments, Timeline, lay_windows
from rm_rec.time_bins import NUM_TIME_BINS, gap_bins, time_bins

LONGEST = 2**52


def bin_of(duration: int) -> int:
    """Return floor(log2(1 + duration)) in whole numbers."""
    return (max(duration, 0) + 1).bit_length() - 1


@given(st.lists(st.integers(-10, LONGEST) | st.integers(0, 52).map(lambda power: 2**power - 1), min_size=1))
@settings(deadline=None)
def test_time_bins_are_whole_logarithms(durations: list[int]) -> None:
    assert time_bins(torch.tensor(durations)).tolist() == [bin_of(duration) for duration in durations]


def test_time_bins_change_at_powers_of_two_exactly() -> None:
    edges = [2**power - 1 for power in range(53)]
    below = [2**power - 2 for power in range(1, 53)]
    assert time_bins(torch.tensor(edges)).tolist() == list(range(53))
    assert time_bins(torch.tensor(below)).tolist() == list(range(52))
    assert time_bins(torch.tensor([2**63 - 1, -5])).tolist() == [NUM_TIME_BINS - 1, 0]


@given(st.lists(st.lists(st.integers(0, 10**6), max_size=6), max_size=6))
@settings(deadline=None)
def test_gap_bins_start_anew_with_each_user(gaps: list[list[int]]) -> None:
    times, expected = [], []
    for user, own in enumerate(gaps):
        now = 10**9 * (7 - user)
        for place, gap in enumerate(own):
            now += gap
            times.append(now)
            expected.append(NUM_TIME_BINS if place == 0 else bin_of(gap))
    lengths = torch.tensor([len(own) for own in gaps], dtype=torch.int64)
    assert gap_bins(torch.tensor(times, dtype=torch.int64), lengths).tolist() == expected


@dataclass(frozen=True)
class Night:
    """Users of whom `before` events are in a memory, and `tonight` are new; each event's vector says which it is."""

    cut: Cut
    before: list[int]
    tonight: list[int]

    @property
    def total(self) -> list[int]:
        """How many events each user has had."""
        return [a + b for a, b in zip(self.before, self.tonight, strict=True)]

    def number(self, user: int, event: int) -> int:
        """Tell a user's events from all others."""
        return 1000 * (user + 1) + event

    def time(self, user: int, event: int) -> int:
        return 5_000 * (user + 1) + event * event

    def gap(self, user: int, event: int) -> int:
        return bin_of(self.time(user, event) - self.time(user, event - 1)) if event else NUM_TIME_BINS

    def kept(self, user: int, num_events: int) -> range:
        """The events of a window: the tail, and the last full segments before it."""
        num_full = num_events // self.cut.segment_length
        return range(max(num_full - self.cut.window_segments, 0) * self.cut.segment_length, num_events)

    def memory(self) -> MemoryState:
        """What is kept of the users before tonight, written event by event; behind a window's end lies rubbish."""
        time, gap, number = (torch.full((len(self.before), self.cut.window_positions), -7) for _ in range(3))
        for user, num_events in enumerate(self.before):
            for place, event in enumerate(self.kept(user, num_events)):
                time[user, place], gap[user, place] = self.time(user, event), self.gap(user, event)
                number[user, place] = self.number(user, event)
        last = [self.time(user, count - 1) if count else 0 for user, count in enumerate(self.before)]
        return MemoryState(
            state={},
            num_events=torch.tensor(self.before),
            last_time=torch.tensor(last),
            window_time=time,
            window_gap=gap,
            window={"number": number, TOKENS: number[..., None].float()},
        )

    def histories(self) -> Histories:
        """Tonight's events."""
        rows = [(u, e) for u, n in enumerate(self.before) for e in range(n, n + self.tonight[u])]
        number = torch.tensor([self.number(user, event) for user, event in rows], dtype=torch.int64)
        return Histories(
            lengths=torch.tensor(self.tonight),
            time=torch.tensor([self.time(user, event) for user, event in rows], dtype=torch.int64),
            tokens=number[:, None].float(),
            keys={"number": number},
        )

    def timeline(self) -> Timeline:
        """The nights put together: from the first event on where nothing was before."""
        if not any(self.before):
            return Timeline.from_start(self.cut, self.histories(), ("number",))
        return join(self.memory(), self.histories(), self.cut, ("number",))

    def assert_holds(self, segments: Segments, user: int, segment: int, whose: int) -> None:
        """Compare one segment laid out with the events of the `whose`-th segment of the user's history, or nothing."""
        for place in range(self.cut.segment_length):
            event = whose * self.cut.segment_length + place
            there = 0 <= event < self.total[user]
            assert bool(segments.valid[user, segment, place]) == there
            if there:
                assert int(segments.tokens[user, segment, place, 0]) == self.number(user, event)
                assert int(segments.keys["number"][user, segment, place]) == self.number(user, event)
                assert int(segments.time[user, segment, place]) == self.time(user, event)


def nights(least_before: int) -> st.SearchStrategy[Night]:
    """Users of unequal lengths, some without any events; with `least_before`, one at least has a memory."""
    counts = st.lists(st.tuples(st.integers(0, 23), st.integers(0, 17)), min_size=1, max_size=5)
    if not least_before:
        counts = counts.map(lambda users: [(0, tonight) for _, tonight in users])
    else:
        counts = counts.filter(lambda users: any(before for before, _ in users))
    cuts = st.builds(Cut, st.integers(1, 5), st.integers(0, 3))
    return st.builds(lambda cut, users: Night(cut, *(list(part) for part in zip(*users, strict=True))), cuts, counts)


NIGHTS = nights(0) | nights(1)


def asked(night: Night, data: st.DataObject) -> list[tuple[int, int]]:
    """Queries of any users at any of tonight's moments: user, and how many of all its events it sees."""
    users = data.draw(st.lists(st.integers(0, len(night.before) - 1), max_size=12))
    return [(user, data.draw(st.integers(night.before[user], night.total[user]))) for user in users]


@given(NIGHTS, st.none() | st.integers(1, 4), st.data())
@settings(deadline=None)
def test_a_stretch_has_each_event_in_its_place_and_each_query_at_its_boundary(
    night: Night, at_once: int | None, data: st.DataObject
) -> None:
    length, asks = night.cut.segment_length, asked(night, data)
    seen = torch.tensor([seen for _, seen in asks], dtype=torch.int64)
    user_of = torch.tensor([user for user, _ in asks], dtype=torch.int64)
    queries = Queries(
        tokens=torch.arange(len(asks))[:, None].float(),
        user=user_of,
        time=torch.full((len(asks),), 10**6) + seen,
        num_earlier=seen - torch.tensor(night.before)[user_of],
        keys={"number": 3 * torch.arange(len(asks)), "unread": torch.zeros_like(seen)},
    )
    folded = [before // length for before in night.before]  # segments, before tonight
    end, answered = 0, []
    for part in night.timeline().parts(queries, at_once):
        stretch, blocks = part.stretch, part.blocks
        assert part.start == end, "stretches follow each other"
        end = part.start + stretch.num_to_fold
        joined = 1 if len(part.query) else JOINED  # stretches without queries are folded together
        assert 0 < stretch.num_to_fold <= (at_once or 10**6) * joined
        assert stretch.num_folded == min(night.cut.window_segments, part.start + max(folded))
        to_fold = stretch.to_fold()
        for user, before in enumerate(folded):
            first = before + part.start - stretch.num_folded
            assert int(stretch.lead[user]) == max(0, -first * length)
            for segment in range(stretch.segments.valid.shape[1]):
                night.assert_holds(stretch.segments, user, segment, first + segment)
            for segment in range(stretch.num_to_fold):
                full = (before + part.start + segment + 1) * length <= night.total[user]
                assert to_fold.valid[user, segment].tolist() == [full] * length
                assert torch.equal(
                    to_fold.tokens[user, segment], stretch.segments.tokens[user, stretch.num_folded + segment]
                )
        for row, query in enumerate(part.query.tolist()):
            user, num_seen = asks[query]
            block, place = divmod(int(blocks.layout.position[row]), blocks.tokens.shape[1])
            boundary = num_seen // length - folded[user]
            assert part.start <= boundary < end
            assert (int(blocks.user[block]), int(blocks.boundary[block])) == (user, boundary - part.start)
            first = folded[user] + part.start - stretch.num_folded
            assert int(blocks.num_visible[block, place]) == num_seen - first * length
            assert int(blocks.time[block, place]) == 10**6 + num_seen
            assert int(blocks.tokens[block, place, 0]) == int(part.targets[row, 0]) == query
            assert {name: int(values[block, place]) for name, values in blocks.keys.items()} == {"number": 3 * query}
        answered += part.query.tolist()
    assert sorted(answered) == list(range(len(asks)))
    most = max((seen // length - folded[user] for user, seen in asks), default=0)
    assert end == most + 1, "as far as queries see, and no further"
    if at_once is not None and end > at_once:
        assert stretch.num_to_fold == at_once, "the last stretch is a whole one"


@given(NIGHTS, st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_folding_lays_out_each_new_full_segment_once_with_one_look_up(
    night: Night, at_once: int, by_embed: bool
) -> None:
    length, timeline, calls = (
        night.cut.segment_length,
        join(night.memory(), night.histories(), night.cut, ("number",)),
        [],
    )
    of_gap = {
        night.number(user, event): night.gap(user, event)
        for user, total in enumerate(night.total)
        for event in range(total)
    }

    def embed(keys: dict[str, Tensor], gap: Tensor) -> Tensor:
        calls.append(keys["number"])
        real = [place for place, number in enumerate(keys["number"].tolist()) if number in of_gap]
        assert [int(gap[place]) for place in real] == [of_gap[int(keys["number"][place])] for place in real]
        return keys["number"][:, None].float()

    laid = list(timeline.to_fold(embed if by_embed else None, at_once))
    assert len(calls) == (1 if by_embed and laid else 0)
    assert all(segments.valid.shape[1] <= at_once for segments in laid)
    most = 0
    for user, (before, total) in enumerate(zip(night.before, night.total, strict=True)):
        folded, whole = before // length, total // length
        assert int(timeline.num_segments()[user]) == whole - folded
        most = max(most, whole - folded)
        for number, segments in enumerate(laid):
            for segment in range(segments.valid.shape[1]):
                whose = folded + number * at_once + segment
                if whose < whole:
                    night.assert_holds(segments, user, segment, whose)
                else:
                    assert not segments.valid[user, segment].any()
    assert sum(segments.valid.shape[1] for segments in laid) == most


@given(NIGHTS)
@settings(deadline=None)
def test_what_is_kept_after_a_night_is_the_window_of_all_events(night: Night) -> None:
    after = remembered(
        night.memory(), join(night.memory(), night.histories(), night.cut, ()), state={"any": torch.ones(1)}
    )
    assert after.state == {"any": torch.ones(1)}
    assert after.num_events.tolist() == night.total
    for user, total in enumerate(night.total):
        assert total == 0 or int(after.last_time[user]) == night.time(user, total - 1)
        for place, event in enumerate(night.kept(user, total)):
            assert int(after.window_time[user, place]) == night.time(user, event)
            assert int(after.window_gap[user, place]) == night.gap(user, event)
            assert int(after.window["number"][user, place]) == night.number(user, event)
            assert int(after.window[TOKENS][user, place, 0]) == night.number(user, event)
    assert after.window_time.shape[1] == after.window[TOKENS].shape[1] == night.cut.window_positions


@given(NIGHTS)
@settings(deadline=None)
def test_windows_laid_out_align_where_segments_begin(night: Night) -> None:
    memory, length = night.memory(), night.cut.segment_length
    stretch = lay_windows(night.cut, memory.num_events, memory.window_time, memory.window)
    folded = [before // length for before in night.before]
    assert stretch.num_folded == max(min(count, night.cut.window_segments) for count in folded)
    assert not stretch.to_fold().valid.any()
    alone = Night(night.cut, night.before, [0] * len(night.before))
    for user, before in enumerate(folded):
        num_full = min(before, night.cut.window_segments)
        assert int(stretch.lead[user]) == length * (stretch.num_folded - num_full)
        for segment in range(stretch.segments.valid.shape[1]):
            whose = before - stretch.num_folded + segment
            alone.assert_holds(stretch.segments, user, segment, whose if whose >= before - num_full else -1)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=80)
    | st.integers(1, 700).map(lambda count: [(0, 3)] * count + [(2, 0)])
)
@settings(deadline=None)
def test_grouped_queries_are_each_in_one_place_beside_their_like(queries: list[tuple[int, int]]) -> None:
    user = torch.tensor([user for user, _ in queries], dtype=torch.int64)
    boundary = torch.tensor([boundary for _, boundary in queries], dtype=torch.int64)
    values = torch.arange(3 * len(queries)).view(len(queries), 3)
    blocks = group_queries(values.float(), user, boundary, values[:, 0], values[:, 1], {"key": values[:, 2]})
    layout = blocks.layout
    num_places = layout.query.numel()
    assert len(blocks) == len(blocks.user) == len(blocks.boundary) == len(layout.query)
    assert len(set(layout.position.tolist())) == len(queries)
    assert all(0 <= place < num_places for place in layout.position.tolist())
    used = set()
    for query, place in enumerate(layout.position.tolist()):
        assert int(layout.query.flatten()[place]) == query
        block, slot = divmod(place, layout.query.shape[1])
        used.add(block)
        assert (int(blocks.user[block]), int(blocks.boundary[block])) == queries[query]
        assert blocks.tokens[block, slot].tolist() == values[query].tolist()
        laid_out = [int(laid[block, slot]) for laid in (blocks.num_visible, blocks.time, blocks.keys["key"])]
        assert laid_out == values[query].tolist()
    assert used == set(range(len(blocks.user))), "no block is empty"
    assert torch.equal(layout.scatter(layout.gather(values)), values)
    answers = torch.stack([blocks.user, blocks.boundary], dim=1)[:, None].expand(-1, layout.query.shape[1], -1)
    assert layout.scatter(answers).tolist() == [list(query) for query in queries]
