"""Feature-level user memory: a user's preference for each latent feature (RUM, Chen et al., WSDM 2018).

All users share the features' keys f_k; m_k is the user's memory of feature k. Each event x writes

    z_k   = softmax_k(beta q . f_k)                q = W x: attention weights of the event over features
    m_k  <- m_k * (1 - z_k erase) + z_k add        erase = sigmoid(E q + b), add = tanh(A q + a)

and a reader sees f_k as key and m_k as value, as in the paper, where the target attends to the features. Since z
depends only on the event, the weights of all events are computed at once; only the update is a loop. Our choices: the
matrix W, initialised to the identity (the paper writes with the item's own vector), and zero initial memories. The
paper's item-level memory is a ring buffer of the last items. Suffixes: U user, S segment, N event, K slot, D slot dim.
"""

import math

import torch
from torch import Tensor, nn

from rm_rec.config.machines import RumMemory
from rm_rec.machines.addressing import erase_and_add
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class RumMachine(MemoryMachine):
    """A row per user for each latent feature, written by erase and add."""

    config_type = RumMemory

    def __init__(self, config: RumMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.slot_dim = config.num_slots, config.slot_dim
        self.sharpness = config.sharpness
        self.features = nn.Parameter(torch.randn(config.num_slots, config.slot_dim))
        self.query = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.erase = nn.Linear(config.slot_dim, config.slot_dim)
        self.add = nn.Linear(config.slot_dim, config.slot_dim)
        for projection in (self.query, self.add):
            nn.init.eye_(projection.weight)  # slots are in the tokens' space
        nn.init.zeros_(self.erase.weight)
        nn.init.constant_(self.erase.bias, -config.keep_bias)
        nn.init.zeros_(self.add.bias)

    def state_spec(self) -> StateSpec:
        """Return the shape: a row for each feature."""
        return {"memory": (self.num_slots, self.slot_dim)}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {"memory": self.features.new_zeros(num_users, self.num_slots, self.slot_dim)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Compute the weights of all events at once; only erasing and adding is a loop."""
        query_USND = self.query(segments.masked_fill(~valid[..., None], 0.0))
        logits_USNK = query_USND @ (self.features.T * (self.sharpness / math.sqrt(self.slot_dim)))
        weight_USNK = logits_USNK.softmax(dim=-1).masked_fill(~valid[..., None], 0.0)
        erase_USND, add_USND = torch.sigmoid(self.erase(query_USND)), torch.tanh(self.add(query_USND))
        parts = [part.flatten(1, 2).unbind(1) for part in (weight_USNK, erase_USND, add_USND)]
        memory = state["memory"]
        trace, length = [memory], segments.shape[2]
        for index, (weight, erase, add) in enumerate(zip(*parts, strict=True), start=1):
            memory = erase_and_add(memory, weight, erase, add)
            if index % length == 0:
                trace.append(memory)
        return {"memory": torch.stack(trace, dim=1)}

    def slots(self, state: State) -> Slots:
        """Return the features as keys and the user's rows as values; a slot is valid once its row is not zero."""
        memory = state["memory"]
        return Slots(self.features.expand(len(memory), -1, -1), memory, memory.ne(0.0).any(dim=-1))
