"""Settings of the memory machines that come from the literature; a state is 2 KB at most at their defaults."""

from typing import Literal

from pydantic import Field, model_validator

from rm_rec.settings import Settings


class RumMemory(Settings):
    """Feature-level user memory: rows under keys that all users share, by erase and add (Chen et al. 2018)."""

    kind: Literal["rum"] = "rum"
    num_slots: int = Field(32, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x slot_dim numbers a user: 32 x 32 are 2 KB in float16."""
    sharpness: float = Field(4.0, gt=0.0, le=100.0)
    """How much an event prefers the features that it fits best (beta; 1 is plain scaled attention)."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class HpmnMemory(Settings):
    """Stacked recurrent units of growing periods (Ren et al. 2019)."""

    kind: Literal["hpmn"] = "hpmn"
    num_layers: int = Field(10, ge=1, le=24)
    """Layer j moves at every growth^j-th event."""
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_layers x slot_dim numbers and a count: 10 x 32 are 644 bytes with float16 rows."""
    growth: int = Field(2, ge=2, le=64)
    keep_bias: float = Field(3.0, ge=-5.0, le=10.0)
    """Added to the update gates: how much a layer prefers, at the start of training, what it holds to what is new."""
    covariance_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Of the squared covariances of different layers, beside the click loss."""

    @model_validator(mode="after")
    def _periods_are_countable(self) -> "HpmnMemory":
        if self.growth ** (self.num_layers - 1) > 2**24:
            raise ValueError(
                f"layer {self.num_layers - 1} would move every {self.growth}^{self.num_layers - 1} events; events are "
                "counted up to 2^24: take fewer num_layers or a smaller growth"
            )
        return self


class NtmMemory(Settings):
    """A Neural Turing Machine's rows: content and location addressing, erase and add (Graves et al. 2014)."""

    kind: Literal["ntm"] = "ntm"
    num_slots: int = Field(31, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 1) numbers a user (+ 2 if controller_reads): 31 x 33 are 2,046 bytes in float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: half the speed, and no gain in clicks was seen."""
    shift_range: int = Field(1, ge=0, le=16)
    """How many rows a head can move by at an event, either way."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class DncMemory(Settings):
    """A Differentiable Neural Computer's rows: content and free rows, temporal links (Graves et al. 2016)."""

    kind: Literal["dnc"] = "dnc"
    num_slots: int = Field(29, ge=1, le=1024)
    slot_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (slot_dim + 2 + read_heads) numbers a user: 29 x 35 are 2,030 bytes in float16."""
    controller_dim: int = Field(32, ge=1, le=1024)
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: slower."""
    read_heads: int = Field(1, ge=1, le=8)
    temporal_links: bool = False
    """Which row was written after which; num_slots x (num_slots + 1) numbers a user more."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""


class MimnMemory(Settings):
    """A memory of many interests: NTM rows, evenly used, and a recurrent unit over each (Pi et al. 2019)."""

    kind: Literal["mimn"] = "mimn"
    num_slots: int = Field(15, ge=1, le=256)
    slot_dim: int = Field(32, ge=1, le=1024)
    controller_dim: int = Field(32, ge=1, le=1024)
    """num_slots x (2 x slot_dim + 1) + controller_dim numbers a user: with 15, 32, 32 they are 1,007."""
    controller_reads: bool = False
    """The paper's feedback of what was read to the controller: slower, and slot_dim numbers a user more."""
    num_channels: int = Field(3, ge=1, le=256)
    """How many rows' units an event moves; at most num_slots."""
    keep_bias: float = Field(2.0, ge=-5.0, le=10.0)
    """An event erases sigmoid(-keep_bias) of the rows it writes to, at the start of training."""
    utilization_weight: float = Field(0.01, ge=0.0, le=1000.0)
    """Of the unevenness with which rows are written to, beside the click loss."""

    @model_validator(mode="after")
    def _channels_are_rows(self) -> "MimnMemory":
        if self.num_channels > self.num_slots:
            raise ValueError(f"num_channels is {self.num_channels}, more than num_slots, which is {self.num_slots}")
        return self
