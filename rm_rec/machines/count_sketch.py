"""Decayed counts of similar events in hashed buckets, without a network and without trained weights.

A baseline for repeated behaviour: a learned memory should beat plain counting. A machine sees an event's vector x, not
its id, so the hash is by direction: bucket b has a fixed random unit vector a_b, and an event is counted in the buckets
whose vectors are nearest to its own (locality-sensitive hashing by random directions: Charikar 2002; by the nearest of
several: Andoni et al. 2015; counts in hashed buckets: the count-min sketch, Cormode and Muthukrishnan 2005):

    w_b(x) = softmax_b(sharpness a_b . x / |x|)
    c_b <- 2^(-1 / half_life) c_b + w_b(x)                          at each event

The weights are a softmax so that embeddings can learn to hash well; at the default sharpness few buckets have nearly
all the weight. A reader sees sharpness a_b as key, so that a target attends to the buckets in which an event with the
same vector was counted, and sqrt(D) log(1 + c_b) a_b as value: its dot product with the target grows with the logarithm
of the count. Events are counted by vector: two items with the same vector are counted together, and a click and a skip
of one item apart, if the outcome's embedding changes the vector's direction enough. Buckets collide, as in any sketch.
The directions are drawn with the config's seed and saved with the weights.
Suffixes: U user, S segment, N event, B bucket, D dim.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from rm_rec.config.machines import CountSketch
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class CountSketchMachine(MemoryMachine):
    """Counts each user's events by the direction of their vectors; counts decay."""

    config_type = CountSketch
    exact_parts = ("count",)
    size_setting = "num_buckets"

    def __init__(self, config: CountSketch, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.slot_dim = token_dim
        generator = torch.Generator().manual_seed(config.seed)
        directions = torch.randn(config.num_buckets, token_dim, generator=generator)
        self.direction: Tensor
        self.register_buffer("direction", functional.normalize(directions, dim=1))

    def state_spec(self) -> StateSpec:
        """Return the shape: a count for each bucket."""
        return {"count": (self.config.num_buckets,)}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {"count": self.direction.new_zeros(num_users, self.config.num_buckets)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Hash the events of all segments at once; only the decayed sum is a loop."""
        cosine_USNB = functional.normalize(segments, dim=-1) @ self.direction.T
        number_USN = valid.to(segments.dtype).cumsum(dim=2)
        later_USN = number_USN[..., -1:] - number_USN
        decay_USN = torch.exp2(-later_USN / self.config.half_life).masked_fill(~valid, 0.0)
        weight_USNB = (self.config.sharpness * cosine_USNB).softmax(dim=-1)
        added_USB = (decay_USN[:, :, None] @ weight_USNB).squeeze(2)
        keep_US1 = torch.exp2(-number_USN[..., -1:] / self.config.half_life)
        counts = [state["count"]]
        for added, keep in zip(added_USB.unbind(1), keep_US1.unbind(1), strict=True):
            counts.append(counts[-1] * keep + added)
        return {"count": torch.stack(counts, dim=1)}

    def slots(self, state: State) -> Slots:
        """Return each bucket's direction as key, and scaled by the log count as value; valid if the count is not 0."""
        count = state["count"]
        keys = (self.config.sharpness * self.direction).expand(len(count), -1, -1)
        values = math.sqrt(self.slot_dim) * count.log1p()[..., None] * self.direction
        return Slots(keys, values, count > 0)
