"""Memories between a store and a model: records of NumPy on one side, tensors on the other."""

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_store.errors import DataError
from feature_store.memories.record import Memories, MemorySchema, make_memories
from feature_store.memories.store import MemoryStore
from pipelines.artifact import TrainedModel
from rm_rec.memories import UserMemories
from rm_rec.model import ClickModel

StateType = Literal["float16", "float32"]


def memory_schema(model: ClickModel, dtype: StateType, user_type: str) -> MemorySchema:
    """Say what a record of a model's memories holds; ConfigError where its window is the whole history."""
    machine = model.memory.machine
    return MemorySchema.model_validate(
        {
            "state": machine.state_spec() if machine is not None else {},
            "exact": machine.exact_parts if machine is not None else (),
            "dtype": dtype,
            "window_events": model.memory.shape.window_events,
            "features": model.features.events,
            "user_type": user_type,
        }
    )


def check_space(trained: TrainedModel, store: MemoryStore, model: str) -> None:
    """Raise DataError where a store's memories are not of a model's memory space."""
    space = trained.card.memory_space
    if store.facts.space_id != space:
        raise DataError(
            f"{store.address}: its memories were built in space {store.facts.space_id}, model {model} is in "
            f"{space or 'none: its window is the whole history'}; build its own: "
            f"python -m pipelines.build_memory --model {model} --memories NEW_STORE --log LOG"
        )


def to_model(model: ClickModel, memories: Memories, found: NDArray[np.bool_]) -> UserMemories:
    """Lay out users' memories [U] for a model: those that were `found`, in their order, and none for the others."""
    empty = model.no_memories(len(found))
    place = torch.from_numpy(np.flatnonzero(found))

    def filled(nothing: Tensor, values: NDArray[np.generic]) -> Tensor:
        result = nothing.clone(memory_format=torch.contiguous_format)
        # A window's last place, which makes its segments whole, is in no record.
        there = result[:, : values.shape[1]] if values.ndim > 1 else result
        # A copy: a record's field of one user is contiguous as it is, with strides that torch refuses.
        there[place] = torch.from_numpy(values.copy(order="C")).to(nothing)
        return result

    window = memories.window()
    return UserMemories(
        state={name: filled(empty.state[name], values) for name, values in memories.state().items()},
        num_events=filled(empty.num_events, memories.records["num_events"]),
        last_time=filled(empty.last_time, memories.records["last_time"]),
        window_time=filled(empty.window_time, window["time"]),
        window_gap=filled(empty.window_gap, window["time_gap"]),
        window_features={name: filled(empty.window_features[name], window[name]) for name in model.features.events},
    )


def to_store(model: ClickModel, schema: MemorySchema, users: pa.Array, memories: UserMemories) -> Memories:
    """Make records of users' memories; DataError where a number does not fit its place."""
    shape = model.memory.shape
    width = shape.window_events
    window = {"time": memories.window_time, "time_gap": memories.window_gap, **memories.window_features}
    return make_memories(
        schema,
        users,
        {name: values.cpu().numpy() for name, values in memories.state.items()},
        memories.last_time.cpu().numpy(),
        memories.num_events.cpu().numpy(),
        shape.window_length(memories.num_events).cpu().numpy(),
        {name: values[:, :width].cpu().numpy() for name, values in window.items()},
    )
