"""Memories between a store and a model: records of NumPy on one side, tensors on the other."""

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.memories.memory_schema import MemorySchema
from feature_store.memories.record import Memories, make_memories
from feature_store.memories.store import MemoryStore
from feature_store.memories.users import UserType
from pipelines.models.artifact import TrainedModel
from rm_rec.memories import UserMemories
from rm_rec.model import ClickModel

StateType = Literal["float16", "float32"]


def memory_schema(model: ClickModel, dtype: StateType, user_type: UserType) -> MemorySchema:
    """Say what a record of a model's memories holds; ConfigError where its window is the whole history.

    A part of the state that the model has as integers is kept in their type.
    """
    machine = model.memory.machine
    initial = model.memory.initial(1)
    integers = {name: values.dtype for name, values in initial.items() if not values.is_floating_point()}
    return MemorySchema.model_validate(
        {
            "state": machine.state_spec() if machine is not None else {},
            "exact": machine.exact_parts if machine is not None else (),
            "types": {name: str(kind).removeprefix("torch.") for name, kind in integers.items()},
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
    records = memories.records
    if not found.all():
        records = np.zeros(len(found), records.dtype)
        records[found] = memories.records
    given = Memories(memories.users, records)
    state = {name: torch.from_numpy(values) for name, values in given.state().items()}
    if not found.all():
        missing = torch.from_numpy(~found)
        for name, initial in model.memory.initial(int((~found).sum())).items():
            state[name][missing] = initial
    # A window is laid out in whole segments: in one place more than a record has.
    window = {name: np.zeros((len(found), model.memory.shape.places), np.int64) for name in given.window()}
    for name, values in given.window().items():
        window[name][:, : values.shape[1]] = values
    return UserMemories(
        state=state,
        num_events=torch.from_numpy(records["num_events"].copy()),
        last_time=torch.from_numpy(records["last_time"].copy()),
        window_time=torch.from_numpy(window["time"]),
        window_gap=torch.from_numpy(window["time_gap"]),
        window_features={name: torch.from_numpy(window[name]) for name in model.features.events},
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
