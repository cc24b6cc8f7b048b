"""Slot-to-item attention and a gated update: the memory of Rehearsal Memory (ICML 2021, arXiv 2106.01096).

"As described": the paper's equations could not be read in full, so each choice is stated here. Slot k of a user is m_k,
the segment's events are f_n:

    l_k  = sum_n softmax_n(q(m_k) . k(f_n) / sqrt(D)) v(f_n)        each slot picks its events
    m_k <- GRU(l_k, m_k)                                            and decides what to keep

Slots start different (learned); with equal starts and shared weights they would stay equal for ever.
Suffixes: U user, S segment, N event, K slot, D slot dim.
"""

import math

import torch
from torch import Tensor, nn

from rm_rec.config import RehearsalMemory
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class RehearsalMachine(MemoryMachine):
    """A few slots a user; each attends to the segment's events and keeps what its gate lets in."""

    def __init__(self, config: RehearsalMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots = config.num_slots
        self.slot_dim = config.slot_dim
        self.start = nn.Parameter(torch.randn(config.num_slots, config.slot_dim) / math.sqrt(config.slot_dim))
        self.query = nn.Linear(config.slot_dim, config.slot_dim, bias=False)
        self.key = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.value = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.from_events = nn.Linear(config.slot_dim, 3 * config.slot_dim)
        self.from_memory = nn.Linear(config.slot_dim, 3 * config.slot_dim)
        with torch.no_grad():
            # Slots begin in the space of the tokens that they take in (as far as sizes allow), where a reader whose
            # projections begin as the identity finds them; from random projections the memory learns far slower.
            for projection in (self.key.weight, self.value.weight, self.from_events.weight[2 * config.slot_dim :]):
                nn.init.eye_(projection)
            self.from_events.bias.zero_()
            self.from_memory.bias.zero_()
            self.from_events.bias[: config.slot_dim] = config.keep_bias

    def state_spec(self) -> StateSpec:
        """The slots, and no more."""
        return {"slots": (self.num_slots, self.slot_dim)}

    def initial(self, num_users: int) -> State:
        """The learned starts, the same for every user."""
        return {"slots": self.start.expand(num_users, -1, -1)}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        """Fold one segment into each user's memory by slot-to-item attention and a gated update."""
        return {"slots": self._fold(state["slots"], self.key(segment), self.value(segment), valid)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Project all segments at once; only the recurrence is a loop."""
        keys, values = self.key(segments).unbind(1), self.value(segments).unbind(1)
        slots = [state["slots"]]
        for key, value, real in zip(keys, values, valid.unbind(1), strict=True):
            slots.append(self._fold(slots[-1], key, value, real))
        return {"slots": torch.stack(slots, dim=1)}

    def slots(self, state: State) -> Slots:
        """Each slot is its own key and value, valid from the start."""
        slots = state["slots"]
        return Slots(slots, slots, torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device))

    def _fold(self, slots_UKD: Tensor, key_UND: Tensor, value_UND: Tensor, valid_UN: Tensor) -> Tensor:
        logits_UKN = self.query(slots_UKD) @ key_UND.transpose(1, 2) / math.sqrt(self.slot_dim)
        # A finite floor, not -inf: a user without a valid event gets some finite mean, which is then discarded.
        share_UKN = logits_UKN.masked_fill(~valid_UN[:, None], -1e9).softmax(dim=-1)
        written_UKD = self._gate(share_UKN @ value_UND, slots_UKD)
        return torch.where(valid_UN.any(dim=1)[:, None, None], written_UKD, slots_UKD)

    def _gate(self, read_UKD: Tensor, slots_UKD: Tensor) -> Tensor:
        """The gated recurrent unit of Cho et al. (2014), written out: keep + (1 - keep) * candidate."""
        from_events, from_memory = self.from_events(read_UKD), self.from_memory(slots_UKD)
        keep_e, reset_e, new_e = from_events.chunk(3, dim=-1)
        keep_m, reset_m, new_m = from_memory.chunk(3, dim=-1)
        keep = torch.sigmoid(keep_e + keep_m)
        candidate = torch.tanh(new_e + torch.sigmoid(reset_e + reset_m) * new_m)
        return torch.lerp(candidate, slots_UKD, keep)
