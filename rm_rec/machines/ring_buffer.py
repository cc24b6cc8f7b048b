"""The last events as they are: what memory networks read.

MemNN (Weston et al., ICLR 2015), MemN2N (Sukhbaatar et al., NeurIPS 2015) and ToMMY store each event's vector in a slot
of its own and read by attention, each with its reader (rm_rec/readers). Their memories grow; here the last K events are
kept, and an older one is gone. A slot is [x; log(1 + age)], as key and as value: x is the event's vector, age how many
events came after it (in place of MemN2N's temporal encoding, section 4.1, whose learned vectors a reader makes of it).
Rows are kept oldest first, so that a row's place is its age: in memory no pointer goes round, and none is needed.
"""

import torch
from torch import Tensor

from rm_rec.config.machines import RingBuffer
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.recent_rows import recent_rows


class RingBufferMachine(MemoryMachine):
    """Keeps each user's last events, one a slot, and how many there were."""

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
        """The events' vectors, oldest first, and the number of events ever seen."""
        return {"events": (self.num_slots, self.token_dim), "count": ()}

    def initial(self, num_users: int) -> State:
        """Nothing yet."""
        return {
            "events": self.log_age.new_zeros(num_users, self.num_slots, self.token_dim),
            "count": self.log_age.new_zeros(num_users),
        }

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Find the last events of all boundaries at once."""
        events = torch.cat([state["events"], segments.flatten(1, 2)], dim=1)
        counts = torch.cat([state["count"][:, None], valid.sum(dim=2).to(events.dtype)], dim=1)
        return {"events": recent_rows(valid, self.num_slots).take(events), "count": counts.cumsum(dim=1)}

    def slots(self, state: State) -> Slots:
        """Each event is its own key and value, beside its age; a slot is valid once an event has come to it."""
        events = state["events"]
        shown = torch.cat([events, self.log_age[:, None].expand(*events.shape[:2], 1)], dim=-1)
        oldest = self.num_slots - state["count"].clamp(max=self.num_slots)
        return Slots(shown, shown, torch.arange(self.num_slots, device=oldest.device) >= oldest[:, None])
