"""Conversion of memories between a store's records (NumPy) and a model's state (tensors)."""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional

from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.record import Memories, make_memories
from feature_store.stores.store import MemoryStore
from feature_store.stores.users import UserType
from pipelines.errors import ModelError
from pipelines.models.artifact import TrainedModel
from pipelines.models.settings import StateType
from rm_rec.histories import TOKENS
from rm_rec.memory_state import MemoryState
from rm_rec.sources.base import StatePart
from rm_rec.user_memory import UserMemory

_TOKENS_PART = "window_tokens"  # the part of a record with the vectors of the window's events


def memory_schema(memory: UserMemory, features: tuple[str, ...], dtype: StateType, user_type: UserType) -> MemorySchema:
    """Return the schema of a model's memory records: the state, and `features` (keys) of each event in the window.

    Without features the window has the events' vectors, for a model that does not embed events itself. Raises
    ConfigError if the model's window is the whole history.
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
    """Raise ModelError if a store's memories are not of a model's memory space; `model` is its name in the error."""
    space = trained.card.memory_space
    if store.facts.space_id != space:
        raise ModelError(
            f"{store.address}: its memories were built in space {store.facts.space_id}, model {model} is in "
            f"{space or 'none: its window is the whole history'}; build its own: "
            f"python -m pipelines.build_memory --model {model} --memories NEW_STORE --log LOG"
        )


def to_model(memory: UserMemory, memories: Memories, has_memory: NDArray[np.bool_]) -> MemoryState:
    """Convert records to a model's state.

    Args:
        memory: the model's memory.
        memories: records of the users who have a memory, in order.
        has_memory: [U] which users these are; the others get an empty memory.
    """
    records = memories.records
    if not has_memory.all():
        records = np.zeros(len(has_memory), records.dtype)
        records[has_memory] = memories.records
    all_memories = Memories(memories.users, records)
    state = {name: torch.from_numpy(values) for name, values in all_memories.state().items()}
    if not has_memory.all():
        missing = torch.from_numpy(~has_memory)
        for name, initial in memory.initial(int((~has_memory).sum())).state.items():
            state[name][missing] = initial
    vectors = state.pop(_TOKENS_PART, None)
    # A state's window has whole segments: one position more than a record has.
    stored = all_memories.window()
    padded = {name: np.zeros((len(has_memory), memory.cut.window_positions), np.int64) for name in stored}
    for name, values in stored.items():
        padded[name][:, : values.shape[1]] = values
    window = {name: torch.from_numpy(values) for name, values in padded.items()}
    if vectors is not None:
        window[TOKENS] = functional.pad(vectors, (0, 0, 0, memory.cut.window_positions - vectors.shape[1]))
    return MemoryState(
        state=state,
        num_events=torch.from_numpy(records["num_events"].copy()),
        last_time=torch.from_numpy(records["last_time"].copy()),
        window_time=window.pop("time"),
        window_gap=window.pop("time_gap"),
        window=window,
    )


def to_store(memory: UserMemory, schema: MemorySchema, users: pa.Array, memories: MemoryState) -> Memories:
    """Convert a model's state to records; raises DataError if a number does not fit the schema's type."""
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
