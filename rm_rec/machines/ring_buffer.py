"""The last events, unchanged: the memory of memory networks.

MemNN (Weston et al., ICLR 2015), MemN2N (Sukhbaatar et al., NeurIPS 2015) and ToMMY store each event's vector in its
own slot and read the slots by attention, each with its own reader (rm_rec/readers). Their memories grow; here only the
last K events are kept. Key and value of a slot are [x; log(1 + age)]: x is the event's vector, and age the number of
events after it (in place of MemN2N's temporal encoding, section 4.1). Rows are kept oldest first, so that a row's index
gives its age.
"""

import torch
from torch import Tensor

from rm_rec.config.machines import RingBuffer
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.recent_rows import recent_rows


class RingBufferMachine(MemoryMachine):
    """Keeps each user's last events, one per slot, and the number of all events."""

    config_type = RingBuffer
    exact_parts = ("count",)

    def __init__(self, config: RingBuffer, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.token_dim = config.num_slots, token_dim
        self.slot_dim = token_dim + 1
        self.log_age: Tensor
        age = torch.arange(config.num_slots - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("log_age", age.log1p(), persistent=False)

    def state_spec(self) -> StateSpec:
        """Return the shapes: the events' vectors, oldest first, and the number of all events."""
        return {"events": (self.num_slots, self.token_dim), "count": ()}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {
            "events": self.log_age.new_zeros(num_users, self.num_slots, self.token_dim),
            "count": self.log_age.new_zeros(num_users),
        }

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Select the last events at all boundaries at once."""
        events = torch.cat([state["events"], segments.flatten(1, 2)], dim=1)
        counts = torch.cat([state["count"][:, None], valid.sum(dim=2).to(events.dtype)], dim=1)
        return {"events": recent_rows(valid, self.num_slots).take(events), "count": counts.cumsum(dim=1)}

    def slots(self, state: State) -> Slots:
        """Return each event, with its age, as key and value; a slot is valid if it has an event."""
        events = state["events"]
        slots = torch.cat([events, self.log_age[:, None].expand(*events.shape[:2], 1)], dim=-1)
        oldest = self.num_slots - state["count"].clamp(max=self.num_slots)
        return Slots(slots, slots, torch.arange(self.num_slots, device=oldest.device) >= oldest[:, None])
