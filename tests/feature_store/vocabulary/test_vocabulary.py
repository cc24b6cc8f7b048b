from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_store.data_config import Columns, DataConfig, ImpressionFile, NextEvent, SplitByTime, VocabularySizes
from feature_store.errors import DataError
from feature_store.hashing import stable_hash
from feature_store.logs.parquet_source import FLOAT
from feature_store.logs.row_checks import ReadColumn
from feature_store.vocabulary.vocabularies import Vocabularies
from feature_store.vocabulary.vocabulary import Vocabulary, canonical
from tests.feature_store.small_logs import random_log

Load = Callable[..., Any]
SIZES: dict[str, int] = {"min_count": 1, "max_rows": 10**6, "oov_rows": 4}


@given(st.dictionaries(st.text(max_size=4) | st.none(), st.integers(1, 5)), st.lists(st.text(max_size=4) | st.none()))
@settings(deadline=None, max_examples=60)
def test_rows_equal_a_slow_loop(counts: dict[str | None, int], asked: list[str | None]) -> None:
    counted = pa.array(list(counts), pa.string())
    vocabulary = Vocabulary.from_counts(counted, np.array(list(counts.values()), int), **SIZES)
    order = sorted(counts, key=lambda i: (-counts[i], i is None, (i or "").encode()))
    asked += list(counts)
    unknown = (stable_hash(pa.array(asked, pa.string())) % np.uint64(4)).tolist()
    expected = [4 + order.index(i) if i in counts else row for i, row in zip(asked, unknown, strict=True)]
    assert vocabulary.encode(pa.array(asked, pa.string())).tolist() == expected
    assert vocabulary.num_rows == 4 + len(counts)


def test_rare_ids_and_those_beyond_the_limit_share_rows() -> None:
    ids = pa.array([10, 20, 30, 40])
    vocabulary = Vocabulary.from_counts(ids, np.array([9, 1, 5, 3]), min_count=2, max_rows=2, oov_rows=3)
    rows = vocabulary.encode(ids)
    assert rows[[0, 2]].tolist() == [3, 4]
    assert (rows[[1, 3]] < 3).all()
    assert vocabulary.num_rows == 5


def test_compatible_types_encode_the_same() -> None:
    numbers = Vocabulary.from_counts(pa.array([1, 0, 7]), np.array([3, 2, 1]), **SIZES)
    expected = numbers.encode(pa.array([1, 0, 9, None]))
    for other in (pa.int32(), pa.uint8(), pa.uint64(), pa.float16()):
        if pa.types.is_integer(other):
            np.testing.assert_array_equal(numbers.encode(pa.array([1, 0, 9, None], other)), expected)
    chunks = pa.chunked_array([[1], [], [0, 9, None]], pa.int64())
    np.testing.assert_array_equal(numbers.encode(chunks), expected)
    assert numbers.encode(pa.array([True, False])).tolist() == expected[:2].tolist()
    assert numbers.encode(pa.nulls(2)).tolist() == [expected[3]] * 2
    assert numbers.encode(pa.array([], pa.int32())).tolist() == []
    words = Vocabulary.from_counts(pa.array(["1", "2.5", "b"]), np.array([3, 2, 1]), **SIZES)
    expected = words.encode(pa.array(["1", "2.5", "x"]))
    np.testing.assert_array_equal(words.encode(pa.array(["1", "2.5", "x"], pa.large_string())), expected)
    np.testing.assert_array_equal(words.encode(pa.array(["1", "2.5", "x"]).dictionary_encode()), expected)
    assert words.encode(pa.array([1.0, 2.5])).tolist() == expected[:2].tolist()


@given(st.lists(st.none() | st.floats() | st.floats(width=32) | st.integers(-(10**17), 10**17).map(float)))
@example([1e10, 3e15, 9e15, 1e16, -0.0, 1e-5, 1e-4, 0.1 + 0.2, float("nan"), float("inf"), None])
@settings(deadline=None, max_examples=25)
def test_floats_are_written_as_a_prepared_log_has_them(values: list[float | None]) -> None:
    numbers = pa.table({"x": pa.array(values, pa.float64())})
    with duckdb.connect() as connection:
        connection.register("numbers", numbers)
        column = ReadColumn("x", "category", "stored", FLOAT)
        prepared = connection.sql(f"SELECT {column.value} FROM numbers").fetchall()
    assert canonical(numbers["x"]).to_pylist() == [text for (text,) in prepared]


def test_ids_of_the_other_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"ids are string, but the vocabulary has int64; cast"):
        Vocabulary.from_counts(pa.array([1]), np.array([1]), **SIZES).encode(pa.array(["1"]))


LOG = {
    "user_id": [1] * 8,
    "item_id": [5, 5, 5, 6, 6, 7, 8, 8],
    "timestamp": range(8),
    "brand": ["a", "b", "b", None, "c", "z", "y", "y"],
}


def test_item_features_are_the_usual_value_in_training(write: Any, load: Load) -> None:
    split = SplitByTime(validation_from=5, test_from=7)
    sizes = VocabularySizes(min_count=1, oov_rows=2)
    columns = Columns(item_features=("brand",))
    config = DataConfig(log=write(LOG), columns=columns, split=split, vocabulary=sizes)
    _, vocabularies, _ = load(config)
    assert vocabularies.items.to_pydict() == {"item": [5, 6], "count": [3, 2], "feature:brand": ["b", "c"]}
    brand = vocabularies.features["brand"]
    assert brand.ids.to_pylist() == ["b", "a", "c", None]
    targets = vocabularies.targets(pa.array([6, 5, 99], pa.int32()))
    assert targets["brand"].tolist() == brand.encode(pa.array(["c", "b", None])).tolist()
    assert targets["item"][:2].tolist() == [3, 2]
    assert targets["item"][2] < 2


def test_only_training_events_are_counted(write: Any, load: Load) -> None:
    log = random_log(users=30)
    columns = Columns(event_features=("action",), item_features=("category",))
    path = write(log)
    whole = DataConfig(
        log=path, columns=columns, split=SplitByTime(test_from=60, validation_from=50), duplicate_rows="keep"
    )
    _, vocabularies, _ = load(whole.model_copy(update={"events_per_bucket": 300}))
    rows = [row for row in log.to_pylist() if row["timestamp"] < 50]
    assert dict(zip(vocabularies.item_ids.to_pylist(), vocabularies.item_counts.tolist(), strict=True)) == Counter(
        row["item_id"] for row in rows
    )
    actions = Counter(row["action"] for row in rows)
    assert vocabularies.features["action"].ids.to_pylist() == sorted(actions, key=lambda a: (-actions[a], a))


def test_shown_items_have_rows_too(write: Any, load: Load) -> None:
    shown = {
        "user_id": [1, 1, 1, 1],
        "item_id": [9, 9, 5, 5],
        "timestamp": [1, 2, 7, 8],
        "label": [0, 1, 0, 1],
        "place": ["a", "a", "b", "b"],
    }
    file = ImpressionFile(path=write(shown, "shown.parquet"), context_features=("place",))
    split = SplitByTime(validation_from=5, test_from=7)
    _, vocabularies, _ = load(DataConfig(log=write(LOG), impressions=file, split=split))
    assert vocabularies.item_ids.to_pylist() == [5, 6, 9]
    assert vocabularies.features["place"].ids.to_pylist() == ["a"]


def test_saved_and_loaded_are_the_same(tmp_path: Path, write: Any, load: Load) -> None:
    columns = Columns(event_features=("action",), item_features=("category",))
    _, vocabularies, _ = load(DataConfig(log=write(random_log()), columns=columns, impressions=NextEvent()))
    vocabularies.save(tmp_path / "saved")
    again = Vocabularies.load(tmp_path / "saved")
    assert again.items.equals(vocabularies.items)
    assert again.item_features == ("category",)
    assert again.num_rows() == vocabularies.num_rows()
    for name, vocabulary in vocabularies.features.items():
        assert again.features[name].ids.equals(vocabulary.ids)
    items = pa.array([300, 301, 9999])
    assert {k: v.tolist() for k, v in again.targets(items).items()} == {
        k: v.tolist() for k, v in vocabularies.targets(items).items()
    }
    with pytest.raises(DataError, match="no vocabularies here"):
        Vocabularies.load(tmp_path)
