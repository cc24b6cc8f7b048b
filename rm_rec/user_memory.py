"""UserMemory: a memory of each user, as a module that any ranking model can have.

It takes vectors of events and returns an answer for each target: in training from whole histories, in serving from
stored memories. To fold events is to update the state with them. Suffixes: U user, B block of queries (not batch),
Q query of a block, D dim.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rm_rec.config import MemoryConfig
from rm_rec.encoder import build_encoder
from rm_rec.errors import BatchError, ConfigError
from rm_rec.histories import BEFORE_ALL, TOKENS, Histories, Queries, check_times, check_users, newest_seen
from rm_rec.machines import build_machine
from rm_rec.machines.base import MemoryMachine, State, StateTrace, last_state
from rm_rec.memory_state import MemoryState, join, no_events, remembered
from rm_rec.query_blocks import QueryBlocks, group_queries
from rm_rec.readers import build_reader
from rm_rec.readers.base import Reader
from rm_rec.resolved import resolved_config
from rm_rec.segments import JOINED, Cut, Embed, Segments, Stretch, Timeline, lay_windows
from rm_rec.sources import build_source
from rm_rec.sources.base import AnswerSource, StatePart, states_at
from rm_rec.sources.part_names import PartNames
from rm_rec.sources.slots import SlotSource
from rm_rec.sources.window import WindowSource

WINDOW, SLOTS = "window", "slots"  # names of the two sources that every config has settings for


@dataclass(frozen=True)
class StretchAnswers:
    """The memory's answers to the queries of one stretch, with what auxiliary losses need.

    A stretch is consecutive segments that are processed together, with gradient. A boundary is the point after a full
    segment. The axis `part` is the queries that read a state or window of the stretch.
    """

    answers: Float[Tensor, "part features"]
    query: Tensor  # [part] indices, into the given queries, of those answered here
    user: Tensor  # [part] indices of their users
    targets: Float[Tensor, "part dim"]  # vectors of the queries' targets
    blocks: QueryBlocks
    state: State  # states of all sources that the blocks read [block, ...]
    last: State  # states of all sources at the last boundary that is read or folded [user, ...]
    trace: StateTrace | None  # states of all sources at each boundary of the stretch, if these were computed
    start: int  # the boundary at which the stretch starts, counted from the start of the given histories
    num_boundaries: int  # of the trace: one more than there are segments to fold


class UserMemory(nn.Module):
    """Answers queries about users' whole histories from a state of fixed size and a window of recent events.

    >>> memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4))
    >>> events = Histories.padded(torch.randn(2, 12, 8), torch.arange(24).view(2, 12), torch.tensor([12, 5]))
    >>> targets = torch.randn(3, 8)
    >>> user, time, seen = torch.tensor([0, 0, 1]), torch.tensor([99, 99, 99]), torch.tensor([12, 3, 5])
    >>> answers = memory(events, Queries(tokens=targets, user=user, time=time, num_earlier=seen))  # to train on
    >>> answers.shape == (3, memory.num_features)
    True
    >>> kept = memory.fold(memory.initial(2), events)  # every night
    >>> served = memory.answer(kept, Queries(tokens=targets, user=user, time=time))  # every request
    >>> torch.allclose(served[[0, 2]], answers[[0, 2]], atol=1e-5)
    True

    An encoder, machine and reader given as modules replace those of the config; `sources` given as modules are added to
    the config's. The attribute `given` names them, since they cannot be built again from settings. If the config names
    classes of other packages, `allowed_packages` must contain these packages; raises ConfigError otherwise.
    """

    def __init__(
        self,
        config: MemoryConfig,
        *,
        encoder: nn.Module | None = None,
        machine: MemoryMachine | None = None,
        reader: Reader | None = None,
        sources: Mapping[str, AnswerSource] | None = None,
        allowed_packages: Collection[str] = (),
    ) -> None:
        super().__init__()
        config = resolved_config(config, allowed_packages)
        self.config = config
        dim = config.token_dim
        parts = {"encoder": encoder, "machine": machine, "reader": reader, **(sources or {})}
        self.given = tuple(name for name, part in parts.items() if part is not None)
        self.window = WindowSource(config.window, dim, config.segment_length)
        encoder = encoder if encoder is not None else build_encoder(config.encoder, dim, config.segment_length)
        machine = machine if machine is not None else build_machine(config.machine, dim)
        self.slots: SlotSource | None = None
        if machine is not None:
            reader = reader if reader is not None else build_reader(config.reader, dim, machine.slot_dim)
            self.slots = SlotSource(encoder, machine, reader)
        built = {name: build_source(block, dim, config.segment_length) for name, block in config.sources.items()}
        self.others = nn.ModuleDict(built | dict(sources or {}))
        self._check_names()
        self._parts = PartNames(self.sources, plain=SLOTS)

    @property
    def sources(self) -> dict[str, AnswerSource]:
        """All answer sources by name, in the order of their features in an answer."""
        named: dict[str, AnswerSource] = {WINDOW: self.window}
        if self.slots is not None:
            named[SLOTS] = self.slots
        for name, source in self.others.items():
            assert isinstance(source, AnswerSource)
            named[name] = source
        return named

    @property
    def num_features(self) -> int:
        """Size of an answer: the concatenated answers of all sources."""
        return sum(source.num_features for source in self.sources.values())

    @property
    def attended(self) -> list[slice]:
        """Slices of an answer that are attention outputs: vectors of size token_dim, in the space of the tokens."""
        slices, first = [], 0
        for source in self.sources.values():
            slices += [slice(first + vector.start, first + vector.stop) for vector in source.attended]
            first += source.num_features
        return slices

    @property
    def keys_read(self) -> tuple[str, ...]:
        """Names of the integer keys that some source reads."""
        return tuple(dict.fromkeys(key for source in self.sources.values() for key in source.keys))

    @property
    def batch_factor(self) -> int:
        """How many times as many events as with other machines make the best batch (see `MemoryMachine`)."""
        return self.slots.machine.batch_factor if self.slots is not None else 1

    @property
    def cut(self) -> Cut:
        """How histories are divided; raises ConfigError if the window is the whole history, which cannot be stored."""
        if self.window.whole_history:
            raise ConfigError(
                "the model's window is the whole history: there is no memory of fixed size to keep; expected "
                "window.kind segments or last_events"
            )
        return self._cut

    @property
    def _cut(self) -> Cut:
        return Cut(self.config.segment_length, self.window.num_segments)

    def state_parts(self) -> dict[str, StatePart]:
        """Return the parts of a user's state, of all sources, by name; the window of raw events is not included."""
        return self._parts.spec(self.sources)

    def initial(self, num_users: int, keys: tuple[str, ...] = ()) -> MemoryState:
        """Return the memories of users with no history; raises ConfigError if the window is the whole history.

        Keys are named integers of each event, such as embedding rows. Windows keep those that some source reads, and
        those named in `keys`: name all that your `embed` function reads, if you pass one to `fold` and `answer`.
        """
        all_keys = tuple(dict.fromkeys((*self.keys_read, *keys)))
        return no_events(self._initial(num_users), num_users, self.cut, all_keys, self.window.age_bias.device)

    def forward(
        self, histories: Histories, queries: Queries, state: MemoryState | None = None
    ) -> Float[Tensor, "query features"]:
        """Return one vector for each query, computed from its user's earlier events.

        `state`, if given, has the events before those in `histories`. Gradients pass through at most the last
        `bptt_segments` segments. The graph of all stretches is kept for the backward pass:
        to bound memory use, iterate over `stretches`. Raises BatchError if histories, queries and state do not agree.
        """
        parts = list(self.stretches(histories, queries, state, every_boundary=False))
        if not parts:
            return queries.tokens.new_zeros(len(queries.user), self.num_features)
        return in_order([part.answers for part in parts], [part.query for part in parts])

    def stretches(
        self,
        histories: Histories,
        queries: Queries,
        state: MemoryState | None = None,
        *,
        every_boundary: bool = True,
    ) -> Iterator[StretchAnswers]:
        """Answer as `forward` does, in stretches of at most `bptt_segments` segments to fold.

        The state is passed from stretch to stretch without gradient. So neither memory use nor the depth of gradients
        grows with the length of histories, if the backward pass of each stretch's loss runs before the next stretch is
        requested. A stretch without queries is folded without gradient, and not returned. Without `every_boundary`,
        which rehearsal needs, states are computed only where queries read them if that is one boundary of each user.
        """
        self._check_tokens("histories", histories.tokens)
        self._check_tokens("queries", queries.tokens)
        self._check_keys("histories", histories.keys)
        self._check_keys("queries", queries.keys)
        if state is None:
            check_times(queries, newest_seen(histories, queries))
            timeline = Timeline.from_start(self._cut, histories, self.keys_read)
            carried = self._initial(histories.num_users)
        else:
            timeline = join(state, histories, self.cut, self.keys_read)
            check_times(queries, newest_seen(histories, queries, _newest(state)))
            carried = state.state
        # The last queries of a stretch are in its last segment: after the writes of all the others.
        at_once = None if self.window.whole_history else self.config.bptt_segments + 1
        by_user = not any(source.needs_boundaries for source in self.sources.values())
        for part in timeline.parts(queries, at_once, by_user=by_user):
            if not len(part.query):
                with torch.no_grad():
                    carried = self._fold_last(carried, part.stretch.to_fold(part.only_read))
                continue
            trace = None
            if every_boundary or part.only_read is None:
                trace = self._fold(carried, part.stretch.to_fold())
                last, read = last_state(trace), states_at(trace, part.blocks.user, part.blocks.boundary)
            else:
                last = self._fold_last(carried, part.stretch.to_fold(part.only_read))
                read = {name: values.index_select(0, part.blocks.user) for name, values in last.items()}
            answers = self._answer(part.blocks, read, part.stretch)
            carried = {name: values.detach() for name, values in last.items()}
            yield StretchAnswers(
                answers=answers,
                query=part.query,
                user=queries.user.index_select(0, part.query),
                targets=part.targets,
                blocks=part.blocks,
                state=read,
                last=last,
                trace=trace,
                start=part.start,
                num_boundaries=1 + part.stretch.num_to_fold,
            )

    def fold(self, state: MemoryState, histories: Histories, embed: Embed | None = None) -> MemoryState:
        """Return the memories with new events added, which must not be earlier than a user's last event.

        Folding day by day gives the same as folding all days at once. If events have no vectors, `embed` computes them
        from keys and binned time gaps, in one call; windows then keep keys without vectors. Raises BatchError if new
        events are earlier than a memory's last one, or have other keys.
        """
        if embed is None:
            self._check_tokens("histories", histories.tokens)
        self._check_keys("histories", histories.keys)
        timeline = join(state, histories, self.cut, self.keys_read)
        carried = state.state
        for segments in timeline.to_fold(embed, JOINED * self.config.bptt_segments):
            # A copy, so that the last state does not keep the states at all boundaries in memory.
            carried = {name: values.clone() for name, values in self._fold_last(carried, segments).items()}
        return remembered(state, timeline, carried)

    def answer(
        self, state: MemoryState, queries: Queries, embed: Embed | None = None
    ) -> Float[Tensor, "query features"]:
        """Answer queries from users' memories alone, as `forward` does from the same events.

        `embed` computes vectors from the windows' keys if windows have no vectors. Raises BatchError for a query that
        is not later than its user's last event, and if queries have `num_earlier`: a memory has no earlier states.
        """
        self._check_tokens("queries", queries.tokens)
        self._check_keys("queries", queries.keys)
        if queries.num_earlier is not None:
            raise BatchError("queries of a memory have num_earlier, but see all events in it: leave num_earlier out")
        if not len(queries.user):
            return queries.tokens.new_zeros(0, self.num_features)
        check_users(queries, state.num_users)
        check_times(queries, _newest(state)[queries.user])
        recent = lay_windows(self.cut, state.num_events, state.window_time, self._window_columns(state, embed))
        visible_U = recent.lead + self.cut.window_length(state.num_events)
        blocks = group_queries(
            tokens=queries.tokens,
            user=queries.user,
            boundary=torch.zeros_like(queries.user),
            num_visible=visible_U.index_select(0, queries.user),
            time=queries.time,
            keys={name: queries.keys[name] for name in self.keys_read},
        )
        read = {name: values.index_select(0, blocks.user) for name, values in state.state.items()}
        return self._answer(blocks, read, recent)

    def penalty(self, stretch: StretchAnswers, clicked: Bool[Tensor, " part"]) -> Float[Tensor, ""] | None:
        """Return the penalty that the sources add to the training loss of a stretch, or None."""
        if not len(stretch.query):
            return None
        clicked_BQ = stretch.blocks.layout.gather(clicked)
        penalties = [
            source.penalty(
                stretch.blocks, clicked_BQ, self._parts.own(name, stretch.state), self._parts.own(name, stretch.last)
            )
            for name, source in self.sources.items()
        ]
        terms = [penalty for penalty in penalties if penalty is not None]
        return torch.stack(terms).sum() if terms else None

    def writing_modules(self) -> tuple[str, ...]:
        """Return the names of the submodules whose weights determine users' states; all others only read."""
        paths = {name: f"others.{name}" if name in self.others else name for name in self.sources}
        return tuple(
            f"{paths[name]}.{module}".removesuffix(".")
            for name, source in self.sources.items()
            for module in source.writing_modules()
        )

    def _initial(self, num_users: int) -> State:
        return self._parts.joined({name: source.initial(num_users) for name, source in self.sources.items()})

    def _fold(self, state: State, segments: Segments) -> StateTrace:
        return self._parts.joined(
            {name: source.fold(self._parts.own(name, state), segments) for name, source in self.sources.items()}
        )

    def _fold_last(self, state: State, segments: Segments) -> State:
        return self._parts.joined(
            {name: source.fold_last(self._parts.own(name, state), segments) for name, source in self.sources.items()}
        )

    def _answer(self, blocks: QueryBlocks, states: State, recent: Stretch) -> Float[Tensor, "query features"]:
        answers = []
        for name, source in self.sources.items():
            answers.append(source.answer(blocks, self._parts.own(name, states), recent))
            if name == WINDOW:  # its answer is an input of the sources after it
                blocks = replace(blocks, recent=answers[0][..., : self.config.token_dim])
        return blocks.layout.scatter(torch.cat(answers, dim=-1))

    def _window_columns(self, state: MemoryState, embed: Embed | None) -> dict[str, Tensor]:
        columns = {name: state.window[name] for name in (*self.keys_read, TOKENS) if name in state.window}
        if TOKENS in columns:
            return columns
        shape = state.window_gap.shape
        if embed is not None:
            flat = {name: values.flatten() for name, values in state.window.items()}
            return columns | {TOKENS: embed(flat, state.window_gap.flatten()).view(*shape, -1)}
        if state.num_events.any():
            raise BatchError("the memories have keys of events but no vectors: give `embed`, which computes these")
        return columns | {TOKENS: self.window.age_bias.new_zeros(*shape, self.config.token_dim)}

    def _check_tokens(self, name: str, tokens: Tensor | None) -> None:
        if tokens is None:
            raise BatchError(f"{name} have no tokens: give vectors of events, or `embed`, which computes these")
        if tokens.shape[1] != self.config.token_dim:
            raise BatchError(
                f"tokens of {name} have {tokens.shape[1]} numbers each, expected the memory's token_dim, "
                f"{self.config.token_dim}"
            )

    def _check_keys(self, name: str, keys: Mapping[str, Tensor]) -> None:
        missing = [key for key in self.keys_read if key not in keys]
        if missing:
            raise BatchError(f"{name} have no key {missing[0]!r}, which an answer source reads; found {sorted(keys)}")

    def _check_names(self) -> None:
        for name in self.others:
            if not name.isidentifier() or name in (WINDOW, SLOTS):
                raise ConfigError(f"a source is called {name!r}, expected a Python identifier, and not window or slots")


def in_order(parts: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Concatenate results in the order of the queries: `rows` has the indices of each part's queries."""
    return torch.cat(parts).index_select(0, torch.cat(rows).argsort())


def _newest(state: MemoryState) -> Tensor:
    """Return the time of each user's last event; BEFORE_ALL for users without events."""
    return torch.where(state.num_events > 0, state.last_time, BEFORE_ALL)
