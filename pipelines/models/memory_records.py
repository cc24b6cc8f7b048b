"""Memories between a store and a model: records of NumPy on one side, tensors on the other."""

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional

from feature_store.errors import DataError
from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.record import Memories, make_memories
from feature_store.stores.store import MemoryStore
from feature_store.stores.users import UserType
from pipelines.models.artifact import TrainedModel
from rm_rec.histories import TOKENS
from rm_rec.memory_state import MemoryState
from rm_rec.sources.base import StatePart
from rm_rec.user_memory import UserMemory

StateType = Literal["float16", "float32"]
_TOKENS_PART = "window_tokens"  # where a record keeps the vectors of a window's events


def memory_schema(memory: UserMemory, features: tuple[str, ...], dtype: StateType, user_type: UserType) -> MemorySchema:
    """Say what a record of a model's memories holds: its state, and `features`, the keys of each event in the window.

    Without features the window holds the events' vectors: the memory of a model that does not embed events anew.
    ConfigError where the model's window is the whole history.
    """
    parts = memory.state_parts()
    if not features:
        parts[_TOKENS_PART] = StatePart((memory.cut.window_events, memory.config.token_dim))
    return MemorySchema.model_validate(
        {
            "state": {name: part.shape for name, part in parts.items()},
            "exact": tuple(name for name, part in parts.items() if part.exact),
            "types": {
                name: str(part.dtype).removeprefix("torch.")
                for name, part in parts.items()
                if not part.dtype.is_floating_point
            },
            "dtype": dtype,
            "window_events": memory.cut.window_events,
            "features": features,
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


def to_model(memory: UserMemory, memories: Memories, found: NDArray[np.bool_]) -> MemoryState:
    """Lay out users' memories [U] for a model: those that were `found`, in their order, and none for the others."""
    records = memories.records
    if not found.all():
        records = np.zeros(len(found), records.dtype)
        records[found] = memories.records
    given = Memories(memories.users, records)
    state = {name: torch.from_numpy(values) for name, values in given.state().items()}
    if not found.all():
        missing = torch.from_numpy(~found)
        for name, initial in memory.initial(int((~found).sum())).state.items():
            state[name][missing] = initial
    vectors = state.pop(_TOKENS_PART, None)
    # A window is laid out in whole segments: in one place more than a record has.
    kept = given.window()
    window = {name: np.zeros((len(found), memory.cut.window_positions), np.int64) for name in kept}
    for name, values in kept.items():
        window[name][:, : values.shape[1]] = values
    laid = {name: torch.from_numpy(values) for name, values in window.items()}
    if vectors is not None:
        laid[TOKENS] = functional.pad(vectors, (0, 0, 0, memory.cut.window_positions - vectors.shape[1]))
    return MemoryState(
        state=state,
        num_events=torch.from_numpy(records["num_events"].copy()),
        last_time=torch.from_numpy(records["last_time"].copy()),
        window_time=laid.pop("time"),
        window_gap=laid.pop("time_gap"),
        window=laid,
    )


def to_store(memory: UserMemory, schema: MemorySchema, users: pa.Array, memories: MemoryState) -> Memories:
    """Make records of users' memories; DataError where a number does not fit its place."""
    width = memory.cut.window_events
    window = {"time": memories.window_time, "time_gap": memories.window_gap, **memories.window}
    state = dict(memories.state)
    if TOKENS in window:
        state[_TOKENS_PART] = window.pop(TOKENS)[:, :width]
    return make_memories(
        schema,
        users,
        {name: values.cpu().numpy() for name, values in state.items()},
        memories.last_time.cpu().numpy(),
        memories.num_events.cpu().numpy(),
        memory.cut.window_length(memories.num_events).cpu().numpy(),
        {name: values[:, :width].cpu().numpy() for name, values in window.items()},
    )
