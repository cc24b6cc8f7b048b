"""Parts of a state with a type of their own: kept as integers in every store, never cut or wrapped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.errors import DataError
from feature_store.stores import Memories, MemorySchema, check, copy, create_store, make_memories, open_store
from feature_store.testing.sample_memories import FACTS, SCHEMA, USERS, arrays, by_user, fill, memories_of
from tests.support.stores import STORES

Place = Callable[..., str]
THREE = pa.array([7, -1, 2**62])


def schema_with(**changed: Any) -> MemorySchema:
    return MemorySchema(**(SCHEMA.model_dump() | changed))


TYPED = schema_with(
    state={"sum": (3, 4), "count": (3,), "seen": (2,), "print": (), "flags": (9,), "sold": (2, 2), "sign": (1,)},
    types={"seen": "int16", "print": "int64", "flags": "uint8", "sold": "int32", "sign": "int8"},
)
TYPED_FACTS = FACTS.model_copy(update={"memory": TYPED})
INTEGERS = tuple(TYPED.types)


def made(schema: MemorySchema = TYPED, **parts: Any) -> Memories:
    given = arrays(schema, 3)
    given["state"] |= parts
    return make_memories(schema, THREE, **given)


def test_a_part_with_a_type_of_its_own_keeps_it_whatever_the_others_are() -> None:
    assert [TYPED.type_of(name) for name in TYPED.state] == [
        "float16",
        "float32",
        "int16",
        "int64",
        "uint8",
        "int32",
        "int8",
    ]
    for schema in (TYPED, TYPED.of_dtype("float32")):
        dtype = schema.record_dtype
        assert (dtype["state.seen"].base.str, dtype["state.seen"].shape) == ("<i2", (2,))
        assert dtype["state.print"].str == "<i8"
    assert TYPED.bytes_per_user == SCHEMA.bytes_per_user + 2 * 2 + 8 + 9 + 4 * 4 + 1
    kinds = {"float16": "<f2", "float32": "<f4", "int8": "|i1", "uint8": "|u1"}
    kinds |= {"int16": "<i2", "int32": "<i4", "int64": "<i8"}
    for name, kind in kinds.items():
        typed = schema_with(types={"sum": name}, dtype="float32")
        assert typed.record_dtype["state.sum"].base.str == kind
        assert typed.of_dtype("float16").record_dtype["state.sum"].base.str == kind
    assert MemorySchema.model_validate_json(TYPED.model_dump_json()) == TYPED


def test_the_facts_of_version_0_1_have_the_layout_that_they_had() -> None:
    """Its schema as JSON, as its stores hold it, and one of its records, byte by byte."""
    text = (
        '{"state":{"sum":[2],"count":[1]},"exact":["count"],"dtype":"float16","window_events":2,"features":["item"],'
        '"user_type":"int64"}'
    )
    schema = MemorySchema.model_validate_json(text)
    record = (
        "c44e840c" "0700000000000000" "0300000000000000" "0100" "003e00c1" "00004040"
        "0700000000000000" "0000000000000000" "0500" "0900000000000000"
    )  # fmt: skip
    memories = Memories.from_rows(schema, pa.array([42]), [bytes.fromhex(record)], "here")
    check(memories, "here")
    assert {name: values.tolist() for name, values in memories.state().items()} == {
        "sum": [[1.5, -2.5]],
        "count": [[3.0]],
    }
    assert {name: values.tolist() for name, values in memories.window().items()} == {
        "time": [[7, 0]], "time_gap": [[5, 0]], "item": [[9, 0]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        (
            "seen",
            32_768,
            "state 'seen' of user -1 has 32768, which does not fit -32768..32767; give the part a wider type",
        ),
        ("seen", -32_769, "state 'seen' of user -1 has -32769, which does not fit"),
        ("print", np.uint64(2**63), "state 'print' of user -1 has 9223372036854775808, which does not fit"),
    ],
)
def test_an_integer_that_does_not_fit_names_user_and_part(part: str, value: Any, said: str) -> None:
    values = np.zeros((3, *TYPED.state[part]), np.asarray(value).dtype)
    values[1, ...] = value
    with pytest.raises(DataError, match=said):
        made(TYPED, **{part: values})


def test_floats_for_an_integer_part_are_refused_not_cut() -> None:
    for values in (np.zeros((3, 2), np.float32), np.full((3, 2), 1.5), np.zeros((3, 2), bool)):
        with pytest.raises(DataError, match=f"state 'seen' is {values.dtype}, but is stored as int16; give integers"):
            made(TYPED, seen=values)
    with pytest.raises(DataError, match=r"state 'seen' has shape \(3, 3\), expected \(3, 2\)"):
        made(TYPED, seen=np.zeros((3, 3), int))


def test_integers_of_any_width_are_taken_where_they_fit() -> None:
    for kind in ("int8", "uint8", "int64", "uint64"):
        kept = made(TYPED, seen=np.full((3, 2), 7, kind)).state()["seen"]
        assert kept.dtype == np.int16
        assert (kept == 7).all()


def test_a_part_of_float16_of_its_own_says_how_to_keep_more() -> None:
    typed = schema_with(types={"sum": "float16"}, dtype="float32")
    with pytest.raises(DataError, match=r"which overflows float16 .*; give the part the type float32"):
        made(typed, sum=np.full((3, 3, 4), -70_000.0, np.float32))


def test_integers_come_back_from_every_store(address: str) -> None:
    given = memories_of(USERS, seed=3, schema=TYPED)
    with create_store(address, TYPED_FACTS) as store:
        written = fill(store)
    with open_store(address) as store:
        assert store.facts == TYPED_FACTS
        memories, found = store.get(USERS)
        assert found.all()
        assert by_user([memories]) == written == by_user(store.read_all())
    state = memories.state()
    assert {name: state[name].dtype.name for name in INTEGERS} == TYPED.types
    assert state["sum"].dtype == state["count"].dtype == np.float32
    assert {name: state[name].shape for name in INTEGERS} == {name: given.state()[name].shape for name in INTEGERS}
    again = make_memories(
        TYPED,
        USERS,
        state,
        *(memories.records[name] for name in ("last_time", "num_events", "num_window")),
        window=memories.window(),
    )
    assert by_user([again]) == written


@pytest.mark.parametrize("target", STORES)
def test_a_copy_to_another_precision_leaves_integers_alone(target: str, place: Place) -> None:
    with create_store(place("parquet", "source"), TYPED_FACTS) as source:
        written = fill(source)
        with copy(source, place(target, "wide"), dtype="float32") as wide:
            assert wide.facts.memory.types == TYPED.types
            assert wide.facts.memory.bytes_per_user == TYPED.bytes_per_user + 24
            kept, copied = source.get(USERS)[0].state(), wide.get(USERS)[0].state()
            for name, values in kept.items():
                assert copied[name].dtype == values.dtype
                np.testing.assert_array_equal(copied[name], values)
            with copy(wide, place(target, "narrow"), dtype="float16") as narrow:
                assert by_user(narrow.read_all()) == written


def test_engines_read_integers_in_parquet(tmp_path: Path) -> None:
    with create_store(f"parquet:{tmp_path / 'store'}", TYPED_FACTS) as store:
        fill(store)
        state = store.get(USERS)[0].state()
    query = f"FROM read_parquet('{tmp_path}/store/current/*/*.parquet') ORDER BY user"
    read = duckdb.connect().sql(query).fetchnumpy()
    for name, kind in TYPED.types.items():
        rows = np.stack([np.asarray(row) for row in read[f"state_{name}"]])
        assert rows.dtype == (np.int64 if kind == "int64" else np.int32)
        np.testing.assert_array_equal(rows, state[name].reshape(rows.shape))
    group = pq.read_metadata(next((tmp_path / "store" / "current").rglob("*.parquet"))).row_group(0)
    encodings = {column["path_in_schema"]: column["encodings"] for column in group.to_dict()["columns"]}
    assert "BYTE_STREAM_SPLIT" in encodings["state_sum.list.element"]
    assert "RLE_DICTIONARY" in encodings["state_sold.list.element"]


def test_a_store_of_version_0_1_is_read(tmp_path: Path) -> None:
    with create_store(f"parquet:{tmp_path}", FACTS) as store:
        written = fill(store)
    file = tmp_path / "_store.json"
    facts = json.loads(file.read_text())
    assert facts["memory"].pop("types") == {}
    file.write_text(json.dumps(facts))
    with open_store(str(tmp_path)) as store:
        assert store.facts == FACTS
        assert by_user(store.read_all()) == written
        newer = fill(store, seed=5, build=1)
        assert by_user(store.read_all()) == newer
