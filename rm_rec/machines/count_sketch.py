"""How often something like this was met: fading counts in hashed buckets, with no network and no trained weight.

The honest baseline for repeat behaviour: what a counter gives, a learned memory has to beat. A machine sees an event's
vector x, not its id, so the hash is one of directions: bucket b has a fixed random unit vector a_b, and an event is
counted in the buckets that its vector points to (locality-sensitive hashing by random directions: Charikar 2002; the
nearest of several: Andoni et al. 2015; counts in hashed buckets: the count-min sketch, Cormode and Muthukrishnan 2005):

    share_b(x) = softmax_b(sharpness a_b . x / |x|)
    c_b <- 2^(-1 / half_life) c_b + share_b(x)                      at each event

The share is soft so that embeddings can learn to hash well; at the default sharpness few buckets get nearly all of it.
A reader sees sharpness a_b as key, so that a target finds the buckets which an event of the same vector was counted in,
and sqrt(D) log(1 + c_b) a_b as value: its product with the target is the logarithm of the count. What it counts are
vectors: two items that training gives one vector are one, and a click and a skip of one item are two if the outcome's
embedding turns the vector far enough. Buckets collide, as in any sketch. The directions are drawn from the config's
seed and kept with the weights.
Suffixes: U user, S segment, N event, B bucket, D dim.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from rm_rec.config.machines import CountSketch
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class CountSketchMachine(MemoryMachine):
    """Counts each user's events by the direction of their vectors; old ones fade."""

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
        """A count for each bucket."""
        return {"count": (self.config.num_buckets,)}

    def initial(self, num_users: int) -> State:
        """Nothing yet."""
        return {"count": self.direction.new_zeros(num_users, self.config.num_buckets)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Hash all segments' events at once; only the fading sum is a loop."""
        cosine_USNB = functional.normalize(segments, dim=-1) @ self.direction.T
        number_USN = valid.to(segments.dtype).cumsum(dim=2)
        later_USN = number_USN[..., -1:] - number_USN
        weight_USN = torch.exp2(-later_USN / self.config.half_life).masked_fill(~valid, 0.0)
        share_USNB = (self.config.sharpness * cosine_USNB).softmax(dim=-1)
        met_USB = (weight_USN[:, :, None] @ share_USNB).squeeze(2)
        keep_US1 = torch.exp2(-number_USN[..., -1:] / self.config.half_life)
        counts = [state["count"]]
        for met, keep in zip(met_USB.unbind(1), keep_US1.unbind(1), strict=True):
            counts.append(counts[-1] * keep + met)
        return {"count": torch.stack(counts, dim=1)}

    def slots(self, state: State) -> Slots:
        """Each bucket's direction finds it, and says by its length how full it is; valid once anything was counted."""
        count = state["count"]
        keys = (self.config.sharpness * self.direction).expand(len(count), -1, -1)
        values = math.sqrt(self.slot_dim) * count.log1p()[..., None] * self.direction
        return Slots(keys, values, count > 0)
