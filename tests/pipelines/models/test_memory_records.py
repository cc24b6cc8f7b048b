"""Memories between a store and a model: integers of a state stay integers on both sides."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from feature_store.errors import DataError
from pipelines.models.memory_records import memory_schema, to_model, to_store
from rm_rec.histories import TOKENS, Histories
from rm_rec.machines.base import State, StateTrace
from rm_rec.memory_state import MemoryState
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Segments, Stretch
from rm_rec.sources.base import AnswerSource, StatePart
from rm_rec.user_memory import UserMemory
from tests.support.fakes import model_config

USERS = pa.array([3, 4])


class Keeping(AnswerSource):
    """Keeps floats and integers, and answers nothing."""

    num_features = 0

    def state_parts(self) -> dict[str, StatePart]:
        return {
            "sum": StatePart((2,)),
            "age": StatePart((1,), exact=True),
            "seen": StatePart((3,), torch.int16),
            "print": StatePart((2,), torch.int64),
        }

    def initial(self, num_users: int) -> State:
        state = {
            name: torch.zeros(num_users, *part.shape, dtype=part.dtype) for name, part in self.state_parts().items()
        }
        return state | {"seen": torch.full((num_users, 3), -1, dtype=torch.int16)}

    def fold(self, state: State, segments: Segments) -> StateTrace:
        return {name: torch.stack([values] * (1 + segments.valid.shape[1]), dim=1) for name, values in state.items()}

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Tensor:
        return queries.tokens[..., :0]


@pytest.fixture
def memory() -> UserMemory:
    return UserMemory(model_config(machine="none"), sources={"kept": Keeping()})


def memories_with(memory: UserMemory, **state: Tensor) -> MemoryState:
    """Two users, one with one event and one with two."""
    events = Histories(
        lengths=torch.tensor([1, 2]), time=torch.tensor([5, 5, 6]), keys={"item": torch.tensor([7, 8, 9])}
    )
    memories = memory.fold(memory.initial(2, ("item",)), events, lambda keys, gap: torch.zeros(len(gap), 8))
    flat = memories.tensors() | {f"state.kept_{name}": values for name, values in state.items()}
    return MemoryState.from_tensors(flat)


def test_a_schema_keeps_integers_in_the_models_own_type(memory: UserMemory) -> None:
    schema = memory_schema(memory, ("item",), "float16", "int64")
    assert schema.types == {"kept_seen": "int16", "kept_print": "int64"}
    assert {name: schema.type_of(name) for name in ("kept_sum", "kept_age")} == {
        "kept_sum": "float16",
        "kept_age": "float32",
    }


def test_a_source_with_a_state_writes_unless_it_says_otherwise(memory: UserMemory) -> None:
    assert memory.writing_modules() == ("others.kept",)


def test_integers_go_to_a_store_and_come_back(memory: UserMemory) -> None:
    schema = memory_schema(memory, ("item",), "float16", "int64")
    seen = torch.tensor([[1, -2, 32_767], [4, 5, -32_768]], dtype=torch.int16)
    prints = torch.tensor([[2**62 + 1, 7], [-(2**63), 2**24 + 1]])
    records = to_store(memory, schema, USERS, memories_with(memory, seen=seen, print=prints))
    back = to_model(memory, records, np.array([True, True]))
    assert back.state["kept_seen"].dtype == torch.int16
    assert torch.equal(back.state["kept_seen"], seen)
    assert torch.equal(back.state["kept_print"], prints)
    assert back.window["item"][:, :2].tolist() == [[7, 0], [8, 9]]
    missing = to_model(memory, records, np.array([True, False, True])).state
    assert missing["kept_seen"].tolist() == [[1, -2, 32_767], [-1, -1, -1], [4, 5, -32_768]]


def test_what_does_not_fit_names_user_and_part(memory: UserMemory) -> None:
    schema = memory_schema(memory, ("item",), "float16", "int64")
    wide = torch.tensor([[1, 2, 3], [4, 5, 40_000]])
    with pytest.raises(DataError, match="state 'kept_seen' of user 4 has 40000"):
        to_store(memory, schema, USERS, memories_with(memory, seen=wide))
    with pytest.raises(DataError, match="state 'kept_seen' is float32, but is stored as int16"):
        to_store(memory, schema, USERS, memories_with(memory, seen=torch.zeros(2, 3)))


def test_vectors_of_events_go_to_a_store_where_nothing_embeds_them_anew(memory: UserMemory) -> None:
    schema = memory_schema(memory, (), "float32", "int64")
    tokens = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    events = Histories(lengths=torch.tensor([2, 7]), time=torch.arange(9), tokens=tokens)
    kept = memory.fold(memory.initial(2), events)
    back = to_model(memory, to_store(memory, schema, USERS, kept), np.array([True, False, True]))
    assert torch.equal(back.window[TOKENS][0, :2], tokens[:2])
    assert torch.equal(back.window[TOKENS][2, :7], tokens[2:])
    assert not back.window[TOKENS][1].any()
