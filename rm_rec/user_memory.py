"""UserMemory: the plugin's face, a module that any ranking model can hold.

Segments are encoded and folded by a memory machine; a reader answers from the state, window attention from the raw
recent events. Suffixes: U user, S segment, N event of a segment, B block, Q query, I query in its own order, D dim.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rm_rec.config import MemoryConfig
from rm_rec.encoder import build_encoder
from rm_rec.errors import ConfigError
from rm_rec.machines import build_machine
from rm_rec.machines.base import Slots, State, StateTrace, last_state
from rm_rec.memories import Shape
from rm_rec.readers import build_reader
from rm_rec.resolved import resolved_config
from rm_rec.segments import Queries, QueryBlocks, Stretch, group_queries
from rm_rec.window import WindowAttention


class UserMemory(nn.Module):
    """Answers questions about users' whole histories from a state of fixed size and a window of recent events.

    >>> memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4))
    >>> tokens, lengths = torch.randn(2, 12, 8), torch.tensor([12, 5])
    >>> stretch = memory.stretch(tokens, time=torch.arange(24).view(2, 12), lengths=lengths)
    >>> queries = memory.queries(torch.randn(3, 8), user=[0, 0, 1], num_earlier=[12, 3, 5], time=[99, 99, 99])
    >>> answers, state, _ = memory(stretch, queries)
    >>> answers.shape == (3, memory.num_features), state["sum"].shape
    (True, torch.Size([2, 31, 32]))
    """

    def __init__(self, config: MemoryConfig, *, allowed_packages: Collection[str] = ()) -> None:
        super().__init__()
        config = resolved_config(config, allowed_packages)
        if config.sources:
            raise ConfigError(f"sources {', '.join(config.sources)}: no model asks further sources yet; leave them out")
        self.config = config
        self.encoder = build_encoder(config.encoder, config.token_dim, config.segment_length)
        self.machine = build_machine(config.machine, config.token_dim)
        self.reader = None
        if self.machine is not None:
            self.reader = build_reader(config.reader, config.token_dim, self.machine.slot_dim)
        self.window = WindowAttention(config.window, config.token_dim, config.segment_length)

    @property
    def num_features(self) -> int:
        """Size of an answer: the window's, then the memory's."""
        return self.window.num_features + (self.reader.num_features if self.reader is not None else 0)

    @property
    def attended(self) -> list[slice]:
        """Where, in an answer, lie the vectors that attention returned: each of token_dim, in the tokens' space."""
        places = [slice(0, self.config.token_dim)]
        if self.reader is not None:
            first = self.window.num_features
            places += [slice(first + place.start, first + place.stop) for place in self.reader.attended]
        return places

    @property
    def shape(self) -> Shape:
        """How histories are cut; ConfigError where the window is the whole history, which no record can hold."""
        if self.window.whole_history:
            raise ConfigError(
                "the model's window is the whole history: there is no memory of fixed size to keep; expected "
                "window.kind segments or last_events"
            )
        return Shape(self.config.segment_length, self.window.num_segments)

    def initial(self, num_users: int) -> State:
        """Return the state of users with no history."""
        return self.machine.initial(num_users) if self.machine is not None else {}

    def stretch(
        self, tokens: Float[Tensor, "user event dim"], time: Tensor, lengths: Tensor, num_folded: int = 0
    ) -> Stretch:
        """Cut histories, padded at their ends, into segments.

        To go on from a state, put each user's recent window (its last full segments, then its tail) before what is new,
        and say by `num_folded` how many full segments that is: they are seen by the window and not folded again.
        """
        length = self.config.segment_length
        num_segments = max(-(-tokens.shape[1] // length), 1)  # one of padding where there is no event at all
        missing = num_segments * length - tokens.shape[1]
        tokens = nn.functional.pad(tokens, (0, 0, 0, missing))
        valid = torch.arange(tokens.shape[1], device=lengths.device) < lengths[:, None]
        shape = (len(tokens), num_segments, length)
        return Stretch(
            tokens=tokens.view(*shape, tokens.shape[-1]),
            valid=valid.view(shape),
            time=nn.functional.pad(time, (0, missing)).view(shape),
            num_folded=num_folded,
        )

    def queries(
        self,
        tokens: Float[Tensor, "query dim"],
        user: Tensor | list[int],
        num_earlier: Tensor | list[int],
        time: Tensor | list[int],
        num_folded: int = 0,
    ) -> Queries:
        """Ask about a stretch: each query sees the first `num_earlier` events that its user has there."""
        seen = torch.as_tensor(num_earlier, device=tokens.device)
        return Queries(
            tokens=tokens,
            user=torch.as_tensor(user, device=tokens.device),
            boundary=seen // self.config.segment_length - num_folded,
            num_visible=seen,
            time=torch.as_tensor(time, device=tokens.device),
        )

    def forward(
        self, stretch: Stretch, queries: Queries, state: State | None = None
    ) -> tuple[Float[Tensor, "query features"], State, StateTrace]:
        """Fold the stretch's full segments into the state and answer the queries at their boundaries.

        Returns the answers, the state after the stretch, and the state at each of its boundaries.
        """
        trace = self.fold(stretch, self.initial(len(stretch.tokens)) if state is None else state)
        return self.answer(stretch, queries, trace), last_state(trace), trace

    def answer(self, stretch: Stretch, queries: Queries, trace: StateTrace) -> Float[Tensor, "query features"]:
        """Answer queries from the stretch's windows and the state at each one's boundary."""
        if not len(queries.user):
            return queries.tokens.new_zeros(0, self.num_features)
        # With the whole history as window, nothing depends on the boundary: a user's queries share their blocks.
        by_user = self.machine is None and self.window.whole_history
        blocks = group_queries(queries.user, torch.zeros_like(queries.boundary) if by_user else queries.boundary)
        answers = [self.window(stretch, queries, blocks)]
        if self.machine is not None and self.reader is not None:
            slots = self.slots(trace, blocks.user, blocks.boundary)
            recent = answers[0][..., : self.config.token_dim]
            answers.append(self.reader(blocks.gather(queries.tokens), slots, recent))
        return blocks.scatter(torch.cat(answers, dim=-1))

    def fold(self, stretch: Stretch, state: State) -> StateTrace:
        """Return the state at each boundary of a stretch; a segment is folded once all its events are there."""
        if self.machine is None:
            return {}
        valid = stretch.valid[:, stretch.num_folded :]
        full = valid & valid.all(dim=2, keepdim=True)
        segments = self.encoder(stretch.tokens[:, stretch.num_folded :], full)
        return self.machine.scan(state, segments, full)

    def penalty(self, trace: StateTrace, queries: Queries, clicked: Bool[Tensor, " query"]) -> Float[Tensor, ""] | None:
        """Return the memory's own addition to the training loss; None: nothing.

        The machine's is of the states at a stretch's end, the reader's a mean over the queries.
        """
        if self.machine is None or self.reader is None:
            return None
        parts = [self.machine.penalty(last_state(trace))]
        if self.reader.needs_labels and len(queries.user):
            blocks = group_queries(queries.user, queries.boundary)
            slots = self.slots(trace, blocks.user, blocks.boundary)
            parts.append(self._reader_penalty(blocks, slots, queries, clicked))
        there = [part for part in parts if part is not None]
        return torch.stack(there).sum() if there else None

    def _reader_penalty(self, blocks: QueryBlocks, slots: Slots, queries: Queries, clicked: Tensor) -> Tensor | None:
        assert self.reader is not None
        penalty = self.reader.penalty(blocks.gather(queries.tokens), slots, blocks.gather(clicked))
        return blocks.scatter(penalty).mean() if penalty is not None else None

    def slots(self, trace: StateTrace, user: Tensor, boundary: Tensor) -> Slots:
        """Show the slots of some users at some boundaries, as readers see them; the machine must be there."""
        assert self.machine is not None
        return self.machine.slots(_at(trace, user, boundary))


def _at(trace: StateTrace, user: Tensor, boundary: Tensor) -> State:
    """Pick the states of users at boundaries."""
    num_boundaries = next(iter(trace.values())).shape[1]
    flat = user * num_boundaries + boundary
    return {name: values.flatten(0, 1).index_select(0, flat) for name, values in trace.items()}
