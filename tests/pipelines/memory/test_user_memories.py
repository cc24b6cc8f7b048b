"""Memories between a store and a model: integers of a state stay integers on both sides."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rm_rec.memories import UserMemories
from torch import Tensor

from feature_store.errors import DataError
from pipelines.memory.user_memories import memory_schema, to_model, to_store

USERS = pa.array([3, 4])


class Counting:
    """A machine of floats and of integers, as far as records of memories ask."""

    exact_parts = ("age",)

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        return {"sum": (2,), "age": (1,), "seen": (3,), "print": (2,)}

    def initial(self, num_users: int) -> dict[str, Tensor]:
        return {
            "sum": torch.zeros(num_users, 2),
            "age": torch.zeros(num_users, 1),
            "seen": torch.full((num_users, 3), -1, dtype=torch.int16),
            "print": torch.zeros(num_users, 2, dtype=torch.int64),
        }


@pytest.fixture
def model() -> Any:
    machine = Counting()
    shape = SimpleNamespace(window_events=2, places=2, window_length=lambda num_events: num_events.clamp(max=2))
    memory = SimpleNamespace(machine=machine, initial=machine.initial, shape=shape)
    return SimpleNamespace(memory=memory, features=SimpleNamespace(events=("item",)))


def memories_with(**state: Tensor) -> UserMemories:
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    return UserMemories(
        state=Counting().initial(2) | state,
        num_events=torch.tensor([1, 2]),
        last_time=torch.tensor([5, 6]),
        window_time=zeros,
        window_gap=zeros,
        window_features={"item": zeros},
    )


def test_a_schema_keeps_integers_in_the_models_own_type(model: Any) -> None:
    schema = memory_schema(model, "float16", "int64")
    assert schema.types == {"seen": "int16", "print": "int64"}
    assert {name: schema.type_of(name) for name in ("sum", "age")} == {"sum": "float16", "age": "float32"}


def test_integers_go_to_a_store_and_come_back(model: Any) -> None:
    schema = memory_schema(model, "float16", "int64")
    seen = torch.tensor([[1, -2, 32_767], [4, 5, -32_768]], dtype=torch.int16)
    prints = torch.tensor([[2**62 + 1, 7], [-(2**63), 2**24 + 1]])
    records = to_store(model, schema, USERS, memories_with(seen=seen, print=prints))
    back = to_model(model, records, np.array([True, True])).state
    assert back["seen"].dtype == torch.int16
    assert torch.equal(back["seen"], seen)
    assert torch.equal(back["print"], prints)
    missing = to_model(model, records, np.array([True, False, True])).state
    assert missing["seen"].tolist() == [[1, -2, 32_767], [-1, -1, -1], [4, 5, -32_768]]


def test_what_does_not_fit_names_user_and_part(model: Any) -> None:
    schema = memory_schema(model, "float16", "int64")
    wide = torch.tensor([[1, 2, 3], [4, 5, 40_000]])
    with pytest.raises(DataError, match="state 'seen' of user 4 has 40000"):
        to_store(model, schema, USERS, memories_with(seen=wide))
    with pytest.raises(DataError, match="state 'seen' is float32, it is kept as int16"):
        to_store(model, schema, USERS, memories_with(seen=torch.zeros(2, 3)))
