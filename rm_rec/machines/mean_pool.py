"""The mean of all events folded so far: the baseline that every memory should beat."""

import torch
from torch import Tensor

from rm_rec.config.machines import MeanPool
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class MeanPoolMachine(MemoryMachine):
    """Keeps the sum and the number of a user's events; its one slot is their mean.

    The state has the sum, not the mean, so that the order of events and their division into calls do not matter. Both
    parts are stored as float32: float16 would stop counting at 2,048 events.
    """

    config_type = MeanPool
    exact_parts = ("sum", "count")
    size_setting = None

    def __init__(self, config: MeanPool, token_dim: int) -> None:
        super().__init__()
        self.slot_dim = token_dim
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(token_dim), persistent=False)

    def state_spec(self) -> StateSpec:
        """Return the shapes: one vector and one count."""
        return {"sum": (self.slot_dim,), "count": ()}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {"sum": self.zero.expand(num_users, -1), "count": self.zero[0].expand(num_users)}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        """Add the segment's events."""
        return {
            "sum": state["sum"] + segment.masked_fill(~valid[..., None], 0.0).sum(dim=1),
            "count": state["count"] + valid.sum(dim=1),
        }

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Add all segments by one cumulative sum."""
        sums = segments.masked_fill(~valid[..., None], 0.0).sum(dim=2)
        counts = valid.sum(dim=2).to(sums.dtype)
        return {
            "sum": torch.cat([state["sum"][:, None], sums], dim=1).cumsum(dim=1),
            "count": torch.cat([state["count"][:, None], counts], dim=1).cumsum(dim=1),
        }

    def slots(self, state: State) -> Slots:
        """Return the mean as the only slot, valid once there is an event."""
        count = state["count"]
        mean = (state["sum"] / count.clamp(min=1.0)[:, None])[:, None]
        return Slots(mean, mean, (count > 0)[:, None])
