"""A source of answers as it is checked, beside a window in a `UserMemory`, and what it is given and asked."""

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
    """What makes a source of a token_dim and a segment length, and what it needs.

    The keys that it names are drawn below `num_ids`. It stands in a memory whose window is the tail and
    `window_segments` full segments. For a source that reads rows of other users, `plant(source, queries, time)` adds
    such rows, of that time, about the targets of the queries.
    """

    make: Make
    num_ids: int = 50
    window_segments: int = 1
    plant: Plant | None = None

    def __str__(self) -> str:
        return type(self.make(TOKEN_DIM, LENGTH)).__name__

    def source(self, seed: int = 0, segment_length: int = LENGTH) -> AnswerSource:
        """Make the source, with drawn weights."""
        return draw_weights(self.make(TOKEN_DIM, segment_length), seed).eval()

    def memory(self, seed: int = 0, segment_length: int = LENGTH, bptt_segments: int = 512) -> "Memory":
        """Put the source in a memory with a window, and drawn weights."""
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
        """Draw histories of those lengths; between two events of a user there is time for a query."""
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
        """Draw queries of users, each between the last event that it sees and the next; half ask about what was met."""
        generator = torch.Generator().manual_seed(seed)
        length = histories.lengths[user]
        met = (torch.rand(len(user), generator=generator) < 0.5) & (length > 0)
        within = torch.randint(1 << 40, (len(user),), generator=generator) % length.clamp(min=1)
        of_event = torch.where(met, histories.first[user] + within, 0)
        keys = self._keys(len(user), generator)
        last = (histories.first[user] + num_earlier - 1).clamp(min=0)
        time = torch.where(num_earlier > 0, histories.time[last] + 1, 999)
        return Queries(
            tokens=torch.randn(len(user), TOKEN_DIM, generator=generator),
            user=user,
            time=time,
            num_earlier=num_earlier,
            keys={name: torch.where(met, histories.keys[name][of_event], v) for name, v in keys.items()},
        )

    def everywhere(self, histories: Histories) -> Queries:
        """Draw a query of each user after each number of its events, in a mixed order."""
        moments = histories.lengths + 1
        user = torch.arange(histories.num_users).repeat_interleave(moments)
        num_earlier = torch.arange(len(user)) - (moments.cumsum(0) - moments).repeat_interleave(moments)
        order = torch.randperm(len(user), generator=torch.Generator().manual_seed(3))
        return self.queries(histories, user[order], num_earlier[order])

    def segments(self, source: AnswerSource, histories: Histories) -> Segments:
        """Lay out the segments of histories that are to be folded."""
        timeline = Timeline.from_start(Cut(LENGTH, self.window_segments), histories, source.keys)
        (segments,) = timeline.to_fold(None, at_once=10_000)
        return segments

    def _keys(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        names = self.make(TOKEN_DIM, LENGTH).keys
        return {name: torch.randint(self.num_ids, (count,), generator=generator) for name in names}


@dataclass(frozen=True)
class Memory:
    """A memory, and the source in it that is checked."""

    whole: UserMemory
    source: AnswerSource

    def own(self, answers: Tensor) -> dict[str, Tensor]:
        """Return the source's part of answers."""
        return {"answer": answers[:, self.whole.window.num_features :]}

    def answers(self, histories: Histories, queries: Queries) -> dict[str, Tensor]:
        """Return the source's answers from whole histories."""
        return self.own(self.whole(histories, queries))


def of_users(histories: Histories, users: Tensor, start: Tensor | None = None, end: Tensor | None = None) -> Histories:
    """Return the histories of some users, from one event of each to before another."""
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
    """Return some of the queries, in the order given."""
    assert queries.num_earlier is not None
    return Queries(
        tokens=queries.tokens[row],
        user=queries.user[row],
        time=queries.time[row],
        num_earlier=queries.num_earlier[row],
        keys={name: values[row] for name, values in queries.keys.items()},
    )


def changed(histories: Histories, event: Tensor, num_ids: int) -> Histories:
    """Return histories with other vectors and keys, and later times, of some of the events [E]."""
    assert histories.tokens is not None
    return replace(
        histories,
        time=torch.where(event, histories.time + 100_000, histories.time),
        tokens=torch.where(event[:, None], 1.0 - 2.0 * histories.tokens, histories.tokens),
        keys={name: torch.where(event, (v + 1) % num_ids, v) for name, v in histories.keys.items()},
    )
