"""Users' ids: types, texts, buckets and tombstones."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.errors import DataError
from feature_store.stores.users import bucket_of, from_texts, texts, tombstones_of, typed

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
TEXT = st.lists(st.text(max_size=20), max_size=20)


@settings(deadline=None, max_examples=50)
@given(INTEGERS | TEXT, st.integers(1, 65_536))
def test_buckets_are_those_of_a_prepared_log(ids: list[int] | list[str], num_buckets: int) -> None:
    users = pa.array(ids, pa.int64() if ids and isinstance(ids[0], int) else pa.string())
    table = pa.table({"user": users})  # noqa: F841 - DuckDB finds it by its name
    query = f"SELECT md5_number_lower(CAST(user AS VARCHAR)) % {num_buckets} AS bucket FROM table"
    expected = duckdb.connect().sql(query.replace("FROM table", 'FROM "table"')).fetchall()
    assert bucket_of(users, num_buckets).tolist() == [int(bucket) for (bucket,) in expected]


@settings(deadline=None)
@given(INTEGERS | TEXT)
def test_texts_are_read_back(ids: list[int] | list[str]) -> None:
    kind = "int64" if ids and isinstance(ids[0], int) else "string"
    users = typed(pa.array(ids, pa.int64() if kind == "int64" else pa.string()), kind, "here")
    assert from_texts(texts(users), kind).equals(users)


@pytest.mark.parametrize("given_type", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()])
def test_integers_of_any_width(given_type: pa.DataType) -> None:
    assert typed(pa.array([5, None], given_type), "int64", "here").equals(pa.array([5, None], pa.int64()))


@pytest.mark.parametrize("given_type", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_of_any_kind(given_type: pa.DataType) -> None:
    assert typed(pa.array(["a", None], given_type), "string", "here").equals(pa.array(["a", None], pa.string()))


def test_columns_and_dictionaries() -> None:
    chunked = pa.chunked_array([pa.array([1, 2]), pa.array([3])])
    assert typed(chunked, "int64", "here").to_pylist() == [1, 2, 3]
    assert typed(pa.chunked_array([], pa.int32()), "int64", "here").to_pylist() == []
    assert typed(pa.array(["b", "a", "b"]).dictionary_encode(), "string", "here").to_pylist() == ["b", "a", "b"]
    assert typed(pa.nulls(2), "string", "here").to_pylist() == [None, None]


def test_another_type_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="here: its user ids are int64, the given ones are string; cast"):
        typed(pa.array(["5"]), "int64", "here")
    with pytest.raises(DataError, match="its user ids are string, the given ones are int64"):
        typed(pa.array([5]), "string", "here")
    with pytest.raises(DataError, match="its user ids are int64, the given ones are double"):
        typed(pa.array([5.0]), "int64", "here")
    with pytest.raises(DataError, match="does not fit int64"):
        typed(pa.array([2**63], pa.uint64()), "int64", "here")


def test_a_tombstone_does_not_hold_the_id() -> None:
    tombstones = tombstones_of(pa.array(["somebody@example.org", "x"]))
    assert [len(tombstone) for tombstone in tombstones] == [16, 16]
    assert b"somebody" not in tombstones[0]
    assert tombstones_of(pa.array([7])) == tombstones_of(pa.array(["7"]))
    assert len(set(tombstones_of(pa.array(np.arange(1000))))) == 1000
