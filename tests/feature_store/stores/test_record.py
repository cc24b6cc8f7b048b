"""Records: their layout, what may be put in, and damage."""

import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from feature_store.errors import DataError
from feature_store.stores import Memories, MemorySchema, check, make_memories, seal
from feature_store.testing.sample_memories import SCHEMA, arrays, memories_of
from tests.feature_store.stores.drawn_schemas import schemas

USERS = pa.array([7, -1, 2**62])


def schema_with(**changed: Any) -> MemorySchema:
    return MemorySchema(**(SCHEMA.model_dump() | changed))


def made(**changed: Any) -> Memories:
    given = arrays(SCHEMA, 3)
    for name, values in changed.items():
        part = name.split("__")
        if len(part) == 2:
            given[part[0]][part[1]] = values
        else:
            given[name] = values
    return make_memories(SCHEMA, USERS, **given)


def test_the_layout_is_packed_little_endian_and_never_changes() -> None:
    dtype = SCHEMA.record_dtype
    assert dtype.descr == [
        ("checksum", "<u4"),
        ("last_time", "<i8"),
        ("num_events", "<i8"),
        ("num_window", "<u2"),
        ("state.sum", "<f2", (3, 4)),
        ("state.count", "<f4", (3,)),
        ("window.time", "<i8", (5,)),
        ("window.time_gap", "|u1", (5,)),
        ("window.item", "<i4", (5,)),
        ("window.shop", "<i4", (5,)),
    ]
    assert dtype.itemsize == SCHEMA.bytes_per_user == 4 + 8 + 8 + 2 + 24 + 12 + 40 + 5 + 20 + 20
    assert schema_with(dtype="float32").bytes_per_user == SCHEMA.bytes_per_user + 24
    assert SCHEMA.of_dtype("float32") == schema_with(dtype="float32")
    assert SCHEMA.of_dtype("float32").bytes_per_user == SCHEMA.bytes_per_user + 24
    assert SCHEMA.of_dtype(None) == SCHEMA
    assert MemorySchema.model_validate_json(SCHEMA.model_dump_json()) == SCHEMA


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"types": {"coutn": "int8"}}, "types names .'coutn'., but the state has"),
        ({"types": {"count": "float32"}}, "both exact and types name .'count'."),
        ({"types": {"sum": "uint32"}}, "'int64'"),
        ({"state": {"a b": (2,)}, "exact": ()}, "'a b'"),
        ({"state": {"": (2,)}, "exact": ()}, "letters"),
        ({"state": {"a": (2, 0)}, "exact": ()}, "at least 1"),
        ({"exact": ("coutn",)}, "coutn"),
        ({"features": ("time",)}, "rename the column"),
        ({"features": ("time_gap",)}, "rename the column"),
        ({"features": ("item", "item")}, "twice"),
        ({"features": ("",)}, "printable"),
        ({"features": ("a\nb",)}, "printable"),
        ({"window_events": 65_536}, "65535"),
        ({"window_events": -1}, "greater than or equal to 0"),
        ({"dtype": "float64"}, "float16"),
        ({"other": 1}, "other"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        schema_with(**changed)


@settings(deadline=None, max_examples=50)
@given(schemas(), st.integers(0, 5), st.integers(0, 2**32))
def test_what_is_put_in_is_read_back(schema: MemorySchema, num_users: int, seed: int) -> None:
    users = pa.array(range(num_users), pa.int64())
    users = users.cast(pa.string()) if schema.user_type == "string" else users
    given = arrays(schema, num_users, seed)
    memories = make_memories(schema, users, **given)
    check(memories, "here")
    state, window = memories.state(), memories.window()
    assert state.keys() == schema.state.keys()
    for name, values in given["state"].items():
        kept = values.astype("f2").astype("f4") if schema.type_of(name) == "float16" else values
        assert state[name].dtype == (np.float32 if "float" in schema.type_of(name) else schema.type_of(name))
        np.testing.assert_array_equal(state[name], kept)
    used = np.arange(schema.window_events) < given["num_window"][:, None]
    for name, values in given["window"].items():
        np.testing.assert_array_equal(window[name], np.where(used, values, 0))
    for name in ("last_time", "num_events", "num_window"):
        np.testing.assert_array_equal(memories.records[name], given[name])
    again = Memories.from_rows(schema, users, [bytes(row) for row in memories.rows()], "here")
    check(again, "here")
    assert again.records.tobytes() == memories.records.tobytes()


def test_selecting_and_joining() -> None:
    memories = memories_of(USERS)
    chosen = memories.select([2, 0])
    assert chosen.users.to_pylist() == [2**62, 7]
    assert chosen.records.tobytes() == memories.records[[2, 0]].tobytes()
    masked = memories.select(np.array([False, True, False]))
    assert masked.users.to_pylist() == [-1]
    check(Memories.concat([chosen, masked]), "here")
    assert len(Memories.concat([Memories.none(SCHEMA), masked])) == 1
    assert len(Memories.none(SCHEMA).select([])) == 0


def test_the_checksum_is_of_the_user_and_of_the_rest_of_the_record() -> None:
    memories = memories_of(USERS)
    expected = [
        zlib.crc32(str(user).encode() + bytes(row)[4:])
        for user, row in zip(USERS.to_pylist(), memories.rows(), strict=True)
    ]
    assert memories.records["checksum"].tolist() == expected


@settings(deadline=None, max_examples=200)
@given(st.integers(0, SCHEMA.bytes_per_user * 3 - 1), st.integers(1, 255))
def test_any_damaged_byte_is_found_and_its_user_named(place: int, flip: int) -> None:
    memories = memories_of(USERS)
    raw = bytearray(memories.records.tobytes())
    raw[place] ^= flip
    damaged = Memories(USERS, np.frombuffer(raw, SCHEMA.record_dtype))
    user = USERS[place // SCHEMA.bytes_per_user].as_py()
    with pytest.raises(DataError, match=rf"^here: memory of user {user} is damaged \(checksum .*build_memory"):
        check(damaged, "here")
    check(seal(damaged), "here")


def test_a_record_under_another_users_key_is_found() -> None:
    memories = memories_of(USERS)
    swapped = Memories(USERS.take(pa.array([1, 0, 2])), memories.records)
    with pytest.raises(DataError, match="user -1 and of 1 others is damaged"):
        check(swapped, "here")


def test_bytes_of_another_size_are_refused() -> None:
    rows = [bytes(row) for row in memories_of(USERS).rows()]
    rows[1] = rows[1][:-1]
    with pytest.raises(DataError, match=f"user -1 is damaged \\({SCHEMA.bytes_per_user - 1} bytes, expected"):
        Memories.from_rows(SCHEMA, USERS, rows, "here")


def with_sum(value: float, user: int = 1) -> np.ndarray:
    values = np.zeros((3, 3, 4), np.float32)
    values[user, 2, 1] = value
    return values


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_state_that_is_not_finite_names_the_user(value: float) -> None:
    with pytest.raises(DataError, match="state 'sum' of user -1 is not finite"):
        made(state__sum=with_sum(value))
    with pytest.raises(DataError, match="state 'count' of user 7 is not finite"):
        made(state__count=np.full((3, 3), value, np.float32))


def test_a_state_beyond_float16_names_the_user_and_the_mend() -> None:
    made(state__sum=with_sum(65_504.0))
    with pytest.raises(DataError, match=r"user 4611686018427387904 reaches 70000, .*float16.*--dtype float32"):
        made(state__sum=with_sum(-70_000.0, user=2))
    made(state__count=np.full((3, 3), 1e30, np.float32))  # exact parts stay float32
    given = arrays(SCHEMA, 3) | {}
    given["state"]["sum"] = with_sum(-70_000.0)
    kept = make_memories(SCHEMA.of_dtype("float32"), USERS, **given)
    assert kept.state()["sum"][1, 2, 1] == -70_000.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_window": [0, 6, 0]}, "window of user -1 has 6 events, its capacity is 5"),
        ({"num_window": [0, 65_536 + 2, 0]}, "num_window of user -1 has 65538"),
        ({"num_window": [0, -1, 0]}, "num_window of user -1 has -1"),
        ({"num_window": [5] * 3, "window__item": np.full((3, 5), 2**31)}, "window.item of user 7 has 2147483648"),
        ({"num_window": [5] * 3, "window__time_gap": np.full((3, 5), 256)}, "window.time_gap of user 7 has 256"),
        ({"window__item": np.zeros((3, 4), int)}, r"window 'item' has shape \(3, 4\), expected \(3, 5\)"),
        ({"state__sum": np.zeros((3, 4, 3), "f4")}, r"state 'sum' has shape \(3, 4, 3\), expected \(3, 3, 4\)"),
        ({"last_time": [1, 2]}, r"last_time has shape \(2,\), expected \(3,\)"),
        ({"window": {"time": np.zeros((3, 5), int)}}, r"window has parts \['time'\], the schema has"),
        ({"state__other": np.zeros((3, 1), "f4")}, r"state has parts \['count', 'other', 'sum'\]"),
        ({"num_events": [1.0, 2.5, 3.0]}, "num_events is float64, but is stored as int64; give integers"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(**changed)


def test_a_window_of_fewer_than_no_events_is_refused() -> None:
    assert MemorySchema.model_validate(SCHEMA.model_dump() | {"window_events": 0}).window_events == 0
    with pytest.raises(ValidationError, match="window_events"):
        MemorySchema.model_validate(SCHEMA.model_dump() | {"window_events": -1})


def test_a_null_user_is_refused() -> None:
    with pytest.raises(DataError, match=r"user 1 \(from 0\) is null"):
        make_memories(SCHEMA, pa.array([7, None, 8]), **arrays(SCHEMA, 3))
