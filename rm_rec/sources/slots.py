"""A memory machine with its reader: segments are encoded and folded into slots, and targets ask the slots."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rm_rec.machines.base import MemoryMachine, Slots, State, StateTrace, last_state
from rm_rec.query_blocks import QueryBlocks
from rm_rec.readers.base import Reader
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart, states_at


class SlotSource(AnswerSource):
    """Answers from the slots of a memory machine, whose state is the source's."""

    def __init__(self, encoder: nn.Module, machine: MemoryMachine, reader: Reader) -> None:
        super().__init__()
        self.encoder = encoder
        self.machine = machine
        self.reader = reader

    @property
    def num_features(self) -> int:
        """Size of an answer: the reader's."""
        return self.reader.num_features

    @property
    def attended(self) -> list[slice]:
        """Where the reader says."""
        return self.reader.attended

    def state_parts(self) -> dict[str, StatePart]:
        """Return the machine's parts: floats, exact where the machine says so."""
        exact = self.machine.exact_parts
        return {name: StatePart(shape, exact=name in exact) for name, shape in self.machine.state_spec().items()}

    def writing_modules(self) -> tuple[str, ...]:
        """Encoder and machine write; the reader reads."""
        return ("encoder", "machine")

    def initial(self, num_users: int) -> State:
        """Return the machine's."""
        return self.machine.initial(num_users)

    def fold(self, state: State, segments: Segments) -> StateTrace:
        """Encode each segment, and fold it."""
        return self.machine.scan(state, self.encoder(segments.tokens, segments.valid), segments.valid)

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Float[Tensor, "block query features"]:
        """Read the slots; a reader may be told what the window's attention answered the same queries."""
        answer: Tensor = self.reader(queries.tokens, self.machine.slots(state), queries.recent)
        return answer

    def penalty(
        self, queries: QueryBlocks, clicked: Bool[Tensor, "block query"], trace: StateTrace
    ) -> Float[Tensor, ""] | None:
        """Add the machine's penalty, of the states at the stretch's end, and the reader's, a mean over the queries."""
        parts = [self.machine.penalty(last_state(trace))]
        if self.reader.needs_labels and len(queries):
            slots = self.machine.slots(states_at(trace, queries.user, queries.boundary))
            of_queries = self.reader.penalty(queries.tokens, slots, clicked)
            parts.append(queries.layout.scatter(of_queries).mean() if of_queries is not None else None)
        there = [part for part in parts if part is not None]
        return torch.stack(there).sum() if there else None

    def slots(self, trace: StateTrace, user: Int[Tensor, " asked"], boundary: Int[Tensor, " asked"]) -> Slots:
        """Show the slots of some users at some boundaries of a trace."""
        return self.machine.slots(states_at(trace, user, boundary))
