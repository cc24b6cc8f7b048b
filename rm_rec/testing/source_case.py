"""The case that an answer source is checked with: a `UserMemory` with the source and a window, and drawn inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rm_rec.config import MemoryConfig, NoEncoder, NoMachine, RecentSegments
from rm_rec.histories import Histories, Queries
from rm_rec.segments import Cut, Segments, Timeline
from rm_rec.sources.base import AnswerSource
from rm_rec.testing.contract import draw_weights
from rm_rec.user_memory import UserMemory

TOKEN_DIM, LENGTH = 8, 4
RAGGED = (0, 1, 3, 4, 27, 11)
TESTED = "tested"  # the source's name in the memory

Make = Callable[[int, int], AnswerSource]
Plant = Callable[[AnswerSource, Queries, int], None]


@dataclass(frozen=True)
class SourceCase:
    """A function that makes a source, given token_dim and segment length, and what the checks need to know of it.

    The keys that the source reads are drawn below `num_ids`. The memory's window has the tail and `window_segments`
    full segments. For a source with data that all users share, `plant(source, queries, time)` adds such data, with this
    time, about the targets of the queries.
    """

    make: Make
    num_ids: int = 50
    window_segments: int = 1
    plant: Plant | None = None

    def __str__(self) -> str:
        return type(self.make(TOKEN_DIM, LENGTH)).__name__

    def source(self, seed: int = 0, segment_length: int = LENGTH) -> AnswerSource:
        """Make the source, with weights drawn at random."""
        return draw_weights(self.make(TOKEN_DIM, segment_length), seed).eval()

    def memory(self, seed: int = 0, segment_length: int = LENGTH, bptt_segments: int = 512) -> "Memory":
        """Make a memory of the source and a window, with weights drawn at random."""
        config = MemoryConfig(
            token_dim=TOKEN_DIM,
            segment_length=segment_length,
            bptt_segments=bptt_segments,
            encoder=NoEncoder(),
            machine=NoMachine(),
            window=RecentSegments(num_segments=self.window_segments),
        )
        source = self.source(seed, segment_length)
        memory = UserMemory(config, sources={TESTED: source})
        draw_weights(memory.window, seed)
        return Memory(memory.eval(), source)

    def histories(self, lengths: tuple[int, ...] = RAGGED, seed: int = 1) -> Histories:
        """Draw histories of these lengths; times leave room for a query between any two events of a user."""
        generator = torch.Generator().manual_seed(seed)
        count = sum(lengths)
        steps = torch.randint(2, 50, (count,), generator=generator)
        return Histories(
            lengths=torch.tensor(lengths),
            time=1000 + steps.cumsum(0),
            tokens=torch.randn(count, TOKEN_DIM, generator=generator),
            keys=self._keys(count, generator),
        )

    def queries(self, histories: Histories, user: Tensor, num_earlier: Tensor, seed: int = 2) -> Queries:
        """Draw queries, each later than the last event it sees and before the next; half have keys of an event."""
        generator = torch.Generator().manual_seed(seed)
        length = histories.lengths[user]
        has_event = (torch.rand(len(user), generator=generator) < 0.5) & (length > 0)
        within = torch.randint(1 << 40, (len(user),), generator=generator) % length.clamp(min=1)
        event = torch.where(has_event, histories.first[user] + within, 0)
        keys = self._keys(len(user), generator)
        last = (histories.first[user] + num_earlier - 1).clamp(min=0)
        time = torch.where(num_earlier > 0, histories.time[last] + 1, 999)
        return Queries(
            tokens=torch.randn(len(user), TOKEN_DIM, generator=generator),
            user=user,
            time=time,
            num_earlier=num_earlier,
            keys={name: torch.where(has_event, histories.keys[name][event], v) for name, v in keys.items()},
        )

    def everywhere(self, histories: Histories) -> Queries:
        """Draw a query for each user at each number of earlier events, in random order."""
        moments = histories.lengths + 1
        user = torch.arange(histories.num_users).repeat_interleave(moments)
        num_earlier = torch.arange(len(user)) - (moments.cumsum(0) - moments).repeat_interleave(moments)
        order = torch.randperm(len(user), generator=torch.Generator().manual_seed(3))
        return self.queries(histories, user[order], num_earlier[order])

    def segments(self, source: AnswerSource, histories: Histories) -> Segments:
        """Return the segments of histories that are to be folded."""
        timeline = Timeline.from_start(Cut(LENGTH, self.window_segments), histories, source.keys)
        (segments,) = timeline.to_fold(None, at_once=10_000)
        return segments

    def _keys(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        names = self.make(TOKEN_DIM, LENGTH).keys
        return {name: torch.randint(self.num_ids, (count,), generator=generator) for name in names}


@dataclass(frozen=True)
class Memory:
    """A memory with the source that is checked."""

    whole: UserMemory
    source: AnswerSource

    def own(self, answers: Tensor) -> dict[str, Tensor]:
        """Return the source's features of the memory's answers."""
        return {"answer": answers[:, self.whole.window.num_features :]}

    def answers(self, histories: Histories, queries: Queries) -> dict[str, Tensor]:
        """Return the source's answers to queries, from whole histories."""
        return self.own(self.whole(histories, queries))


def of_users(histories: Histories, users: Tensor, start: Tensor | None = None, end: Tensor | None = None) -> Histories:
    """Return the histories of some users, each from event `start` to before event `end`."""
    start = torch.zeros_like(users) if start is None else start
    end = histories.lengths[users] if end is None else end
    spans = zip((histories.first[users] + start).tolist(), (histories.first[users] + end).tolist(), strict=True)
    row = torch.cat([torch.zeros(0, dtype=torch.int64), *(torch.arange(first, last) for first, last in spans)])
    assert histories.tokens is not None
    return Histories(
        lengths=end - start,
        time=histories.time[row],
        tokens=histories.tokens[row],
        keys={name: values[row] for name, values in histories.keys.items()},
    )


def of_queries(queries: Queries, row: Tensor) -> Queries:
    """Select queries by index, in the order of `row`."""
    assert queries.num_earlier is not None
    return Queries(
        tokens=queries.tokens[row],
        user=queries.user[row],
        time=queries.time[row],
        num_earlier=queries.num_earlier[row],
        keys={name: values[row] for name, values in queries.keys.items()},
    )


def changed(histories: Histories, event: Tensor, num_ids: int) -> Histories:
    """Return histories in which the marked events [E] have other vectors and keys, and later times."""
    assert histories.tokens is not None
    return replace(
        histories,
        time=torch.where(event, histories.time + 100_000, histories.time),
        tokens=torch.where(event[:, None], 1.0 - 2.0 * histories.tokens, histories.tokens),
        keys={name: torch.where(event, (v + 1) % num_ids, v) for name, v in histories.keys.items()},
    )
