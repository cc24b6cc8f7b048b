"""Means of what happened lately, over several spans of time: the machine of docs/add-a-machine.md."""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from rm_rec.config.machines import MachineSettings
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec


class FadingMean(MachineSettings):
    """Means over the last segments, from a short half-life to a long one."""

    num_means: int = Field(8, ge=1, le=1024)
    longest: float = Field(64.0, ge=1.0)


class FadingMeanMachine(MemoryMachine):
    """Fading sums of a user's events, each with the fading number of them."""

    config_type = FadingMean
    size_setting = "num_means"

    def __init__(self, config: FadingMean, token_dim: int) -> None:
        super().__init__()
        self.slot_dim = token_dim
        self.log_half_life = nn.Parameter(torch.linspace(0.0, math.log2(config.longest), config.num_means))
        self.start = nn.Parameter(torch.randn(config.num_means, token_dim))

    def state_spec(self) -> StateSpec:
        return {"sum": tuple(self.start.shape), "count": tuple(self.log_half_life.shape)}

    def initial(self, num_users: int) -> State:
        return {"sum": self.start.expand(num_users, -1, -1), "count": self.start.new_ones(num_users, len(self.start))}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        keep_K = torch.exp2(-torch.exp2(-self.log_half_life))
        keep_UK = torch.where(valid.any(dim=1)[:, None], keep_K, 1.0)  # nothing fades while nothing happens
        added_UD = segment.masked_fill(~valid[..., None], 0.0).sum(dim=1)
        return {
            "sum": keep_UK[..., None] * state["sum"] + added_UD[:, None],
            "count": keep_UK * state["count"] + valid.sum(dim=1)[:, None],
        }

    def slots(self, state: State) -> Slots:
        mean_UKD = state["sum"] / state["count"][..., None]
        return Slots(mean_UKD, mean_UKD, torch.ones_like(state["count"], dtype=torch.bool))


class OtherSettings(FadingMean):
    """Settings that no machine has."""


class Slower(FadingMeanMachine):
    """A machine that takes over its parent's settings."""


class AbstractMachine(MemoryMachine):
    """A machine that is not finished."""

    config_type = FadingMean

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        return state


class OwnDoor(MachineSettings):
    """Settings of the machine below."""

    size: int = 3


class WithoutSize(FadingMeanMachine):
    """A machine whose settings lack what its state grows with."""

    config_type = OwnDoor

    def __init__(self, config: OwnDoor, token_dim: int) -> None:
        super().__init__(FadingMean(num_means=config.size), token_dim)
