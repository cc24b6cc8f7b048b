"""Slot-to-item attention and a gated update: the memory of Rehearsal Memory (ICML 2021, arXiv 2106.01096).

The paper's equations were not available in full, so all choices are stated here. Slot k of a user is m_k, the segment's
events are f_n:

    a_kn = q(m_k) . k(f_n) / sqrt(D)                             attention logits of slot k over the events
    l_k  = sum_n softmax_n(a_kn) v(f_n)                          attention output
    w_k  = sigmoid(logsumexp_n(a_kn) - null_k)                   write weight: how well any event matches the slot
    m_k <- m_k + w_k (GRU(l_k, m_k) - m_k)                       gated update

Without w_k every segment changes every slot, and old events are overwritten by irrelevant ones: with a planted event
220 events back, 7 training runs of 8 found it with w_k, and 5 of 8 without (docs/experiments.md). The initial slots are
learned and different: with equal initial slots and shared weights, slots would stay equal.
Suffixes: U user, S segment, N event, K slot, D slot dim.
"""

import math

import torch
from torch import Tensor, nn

from rm_rec.config.machines import SlotGruMemory
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class SlotGruMachine(MemoryMachine):
    """A few slots per user; each attends to the segment's events and is updated through a gate."""

    config_type = SlotGruMemory

    def __init__(self, config: SlotGruMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots = config.num_slots
        self.slot_dim = config.slot_dim
        self.start = nn.Parameter(torch.randn(config.num_slots, config.slot_dim))
        self.query = nn.Linear(config.slot_dim, config.slot_dim, bias=False)
        self.key = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.value = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.from_events = nn.Linear(config.slot_dim, 3 * config.slot_dim)
        self.from_memory = nn.Linear(config.slot_dim, 3 * config.slot_dim)
        self.null = nn.Parameter(torch.zeros(config.num_slots))
        self._initialise(config.keep_bias)

    @torch.no_grad()
    def _initialise(self, keep_bias: float) -> None:
        """Initialise projections to the identity, so that a slot attends to events similar to it and adds them.

        Slots are then in the space of the tokens (as far as sizes allow), where a reader with identity projections can
        match them with targets. With random projections the memory learns far more slowly.
        """
        candidate = slice(2 * self.slot_dim, None)
        for weight in (self.key.weight, self.value.weight, self.query.weight):
            nn.init.eye_(weight)
        for weight in (self.from_events.weight[candidate], self.from_memory.weight[candidate]):
            nn.init.eye_(weight)
        self.query.weight.mul_(math.sqrt(self.slot_dim))  # sharp, so that slots attend to different events
        self.from_events.bias.zero_()
        self.from_memory.bias.zero_()
        self.from_events.bias[: self.slot_dim] = keep_bias

    def state_spec(self) -> StateSpec:
        """Return the shape of the slots."""
        return {"slots": (self.num_slots, self.slot_dim)}

    def initial(self, num_users: int) -> State:
        """Return the learned initial slots, the same for every user."""
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
        """Return each slot as key and value; all are valid."""
        slots = state["slots"]
        return Slots(slots, slots, torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device))

    def _fold(self, slots_UKD: Tensor, key_UND: Tensor, value_UND: Tensor, valid_UN: Tensor) -> Tensor:
        logits_UKN = self.query(slots_UKD) @ key_UND.transpose(1, 2) / math.sqrt(self.slot_dim)
        # Finite, not -inf, so that a user without a valid event gets finite values, which are then discarded.
        logits_UKN = logits_UKN.masked_fill(~valid_UN[:, None], -1e9)
        read_UKD = logits_UKN.softmax(dim=-1) @ value_UND
        weight_UK = torch.sigmoid(logits_UKN.logsumexp(dim=-1) - self.null)
        written_UKD = self._write(slots_UKD, read_UKD, weight_UK[..., None])
        return torch.where(valid_UN.any(dim=1)[:, None, None], written_UKD, slots_UKD)

    def _write(self, slots_UKD: Tensor, read_UKD: Tensor, weight_UK1: Tensor) -> Tensor:
        """Move slots, by the write weight, towards the output of a GRU (Cho et al. 2014) on what they read."""
        keep_e, reset_e, new_e = self.from_events(read_UKD).chunk(3, dim=-1)
        keep_m, reset_m, new_m = self.from_memory(slots_UKD).chunk(3, dim=-1)
        change = torch.sigmoid(-(keep_e + keep_m)) * weight_UK1
        candidate = torch.tanh(new_e + torch.sigmoid(reset_e + reset_m) * new_m)
        return torch.lerp(slots_UKD, candidate, change)
