"""The case that a machine is checked with: its settings, an encoder or none, and drawn histories."""

from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from rm_rec.config import NoEncoder, TransformerEncoder
from rm_rec.encoder import build_encoder
from rm_rec.machines.base import MemoryMachine, State, StateTrace, last_state
from rm_rec.testing.contract import described, draw_weights

TOKEN_DIM, LENGTH = 8, 4
# Numbers of events of each user: none, less than a segment, one segment, several, and not a multiple of a segment.
RAGGED = (0, 1, 3, 4, 24, 11)


@dataclass(frozen=True)
class MachineCase:
    """A machine with its settings (by default its own defaults), with or without an encoder before it.

    With `encoded`, events pass through a transformer within each segment, whose outputs for padding are arbitrary.
    `max_bytes` is the largest allowed size of a user's stored state for token_dim 32.
    """

    machine: type[MemoryMachine]
    config: BaseModel | None = None
    encoded: bool = False
    max_bytes: int = 2048

    def __str__(self) -> str:
        encoder = " behind a transformer" if self.encoded else ""
        return f"{self.machine.__name__}{described(self.settings)}{encoder}"

    @property
    def settings(self) -> BaseModel:
        """Settings that the machine is built from."""
        return self.config if self.config is not None else self.machine.config_type.model_validate({})

    def folding(self, *, fresh: bool = False, seed: int = 0, segment_length: int = LENGTH) -> "Folding":
        """Build the machine, with weights drawn at random or, if `fresh`, its initial weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            folding = Folding(self.machine(self.settings, TOKEN_DIM), self.encoded, segment_length)
        return folding.eval() if fresh else draw_weights(folding, seed).eval()


class Folding(nn.Module):
    """An encoder and a machine, which fold segments as they do in a model."""

    def __init__(self, machine: MemoryMachine, encoded: bool, segment_length: int) -> None:
        super().__init__()
        self.encoder = build_encoder(TransformerEncoder() if encoded else NoEncoder(), TOKEN_DIM, segment_length)
        self.machine = machine

    def initial(self, num_users: int) -> State:
        """Return the machine's initial state."""
        return self.machine.initial(num_users)

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        """Encode and fold one segment."""
        return self.machine.write(state, self.encoder(segment, valid), valid)

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Encode and fold segments."""
        return self.machine.scan(state, self.encoder(segments, valid), valid)

    def written(self, num_users: int = len(RAGGED)) -> State:
        """Return states, different for each user, into which events were folded."""
        segments, valid = histories((24,) * num_users, seed=2)
        return last_state(self.scan(self.initial(num_users), segments, valid))


def histories(lengths: tuple[int, ...] = RAGGED, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Draw segments [U, S, N, D] for these history lengths; return them and which events are valid [U, S, N]."""
    num_segments = -(-max(lengths) // LENGTH)
    generator = torch.Generator().manual_seed(seed)
    segments = torch.randn(len(lengths), num_segments, LENGTH, TOKEN_DIM, generator=generator)
    valid = torch.arange(num_segments * LENGTH) < torch.tensor(lengths)[:, None]
    return segments, valid.view(len(lengths), num_segments, LENGTH)


def full_histories(num_users: int, num_segments: int, length: int = LENGTH, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw segments without padding; return them and which events are valid, as `histories` does."""
    generator = torch.Generator().manual_seed(seed)
    segments = torch.randn(num_users, num_segments, length, TOKEN_DIM, generator=generator)
    return segments, torch.ones(num_users, num_segments, length, dtype=torch.bool)


def state_at(trace: StateTrace, boundary: int) -> State:
    """Return the states at one boundary of a trace."""
    return {name: values[:, boundary] for name, values in trace.items()}


def rows(state: State, users: Tensor | slice) -> State:
    """Return the states or traces of some users."""
    return {name: values[users] for name, values in state.items()}
