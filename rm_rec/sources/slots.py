"""The slots of a memory machine as an answer source: segments are encoded and folded, and a reader answers targets."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rm_rec.machines.base import MemoryMachine, Slots, State, StateTrace
from rm_rec.query_blocks import QueryBlocks
from rm_rec.readers.base import Reader
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart, states_at


class SlotSource(AnswerSource):
    """Answers from the slots of a memory machine; the source's state is the machine's."""

    def __init__(self, encoder: nn.Module, machine: MemoryMachine, reader: Reader) -> None:
        super().__init__()
        self.encoder = encoder
        self.machine = machine
        self.reader = reader

    @property
    def num_features(self) -> int:
        """Size of the reader's answer."""
        return self.reader.num_features

    @property
    def attended(self) -> list[slice]:
        """The reader's slices."""
        return self.reader.attended

    def state_parts(self) -> dict[str, StatePart]:
        """Return the parts of the machine's state: float32, those in `exact_parts` stored as such."""
        exact = self.machine.exact_parts
        return {name: StatePart(shape, exact=name in exact) for name, shape in self.machine.state_spec().items()}

    def writing_modules(self) -> tuple[str, ...]:
        """Return encoder and machine, which write; the reader only reads."""
        return ("encoder", "machine")

    def initial(self, num_users: int) -> State:
        """Return the machine's initial state."""
        return self.machine.initial(num_users)

    def fold(self, state: State, segments: Segments) -> StateTrace:
        """Encode and fold each segment."""
        return self.machine.scan(state, self.encoder(segments.tokens, segments.valid), segments.valid)

    def fold_last(self, state: State, segments: Segments) -> State:
        """Encode and fold each segment, for the last state alone."""
        return self.machine.fold_last(state, self.encoder(segments.tokens, segments.valid), segments.valid)

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Float[Tensor, "block query features"]:
        """Read the slots; the reader also receives the window attention's answers to the same queries."""
        answer: Tensor = self.reader(queries.tokens, self.machine.slots(state), queries.recent)
        return answer

    def penalty(
        self, queries: QueryBlocks, clicked: Bool[Tensor, "block query"], state: State, last: State
    ) -> Float[Tensor, ""] | None:
        """Return the machine's penalty on the last states, plus the reader's mean over the queries."""
        parts = [self.machine.penalty(last)]
        if self.reader.needs_labels and len(queries):
            per_query = self.reader.penalty(queries.tokens, self.machine.slots(state), clicked)
            parts.append(queries.layout.scatter(per_query).mean() if per_query is not None else None)
        terms = [part for part in parts if part is not None]
        return torch.stack(terms).sum() if terms else None

    def slots(self, trace: StateTrace, user: Int[Tensor, " asked"], boundary: Int[Tensor, " asked"]) -> Slots:
        """Return the slots of the given users at the given boundaries of a trace."""
        return self.machine.slots(states_at(trace, user, boundary))
