"""Candidates are read as they lie: every row and column in order, wherever a reader went on; mistakes in one line."""

import datetime
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.data_config import Columns, DataConfig, ImpressionFile
from feature_store.errors import DataError
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.preparation import prepare
from pipelines.models.artifact import TrainedModel
from pipelines.scoring.candidate_files import CandidateNames, dense_of, read_pieces, times_of
from pipelines.scoring.settings import CandidateColumns
from tests.support.nights import LABELLED, random_log, silent, train, write

Written = Callable[..., ParquetSource]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def source(**tables: pa.Table | dict[str, Any]) -> ParquetSource:
        for name, table in tables.items():
            write(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / "in" / f"{name}.parquet")
        return ParquetSource.open(str(tmp_path / "in"))

    return source


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ParquetSource, pa.Table]:
    """Files of 0, 7, 1, 0 and 30 rows, the last in row groups of 4."""
    folder = tmp_path_factory.mktemp("sizes")
    table = pa.table({"x": range(38), "y": [str(number) for number in range(38)]})
    start = 0
    for place, rows in enumerate((0, 7, 1, 0)):
        write(table.slice(start, rows), folder / f"{place}.parquet")
        start += rows
    pa.parquet.write_table(table.slice(start), folder / "9.parquet", row_group_size=4)
    return ParquetSource.open(str(folder)), table


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 40), skip=st.integers(0, 38))
def test_every_row_once_in_order(sizes: tuple[ParquetSource, pa.Table], rows: int, skip: int) -> None:
    source, table = sizes
    pieces = list(read_pieces(source, rows, skip))
    assert all(0 < len(piece) <= rows for piece in pieces)
    whole = pa.concat_tables([table.slice(0, 0), *pieces])
    assert whole.equals(table.slice(skip))
    # Whoever goes on after a piece sees the pieces that the other would have seen.
    if pieces:
        done = skip + len(pieces[0])
        assert [piece.to_pylist() for piece in read_pieces(source, rows, done)] == [
            piece.to_pylist() for piece in pieces[1:]
        ]


def test_folders_name_columns(tmp_path: Path) -> None:
    for name, rows in (
        ("day=2026-11-20/place=a%20b", [1, 2]),
        ("day=2026-11-21/place=__HIVE_DEFAULT_PARTITION__", [3]),
    ):
        write(pa.table({"x": rows, "day": rows}), tmp_path / "in" / name / "part.parquet")
    found = pa.concat_tables(read_pieces(ParquetSource.open(str(tmp_path / "in")), 10, 0))
    assert found.to_pydict() == {
        "x": [1, 2, 3],
        "day": ["2026-11-20", "2026-11-20", "2026-11-21"],
        "place": ["a b", "a b", None],
    }
    assert found.schema.field("place").type == pa.string()


def test_columns_keep_the_first_files_types(written: Written) -> None:
    source = written(
        a={"x": pa.array([1], pa.int32()), "y": pa.array(["a"]).dictionary_encode()},
        b={"y": pa.array(["b"]), "x": pa.array([2], pa.int64())},
    )
    found = pa.concat_tables(read_pieces(source, 10, 0))
    assert found.schema.types == [pa.int32(), pa.dictionary(pa.int32(), pa.string())]
    assert found.to_pydict() == {"x": [1, 2], "y": ["a", "b"]}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"x": [2]}, "has no column 'y', unlike the first file"),
        ({"x": [2], "y": ["b"], "z": [1]}, "has a column 'z', unlike the first file"),
        ({"x": [2**40], "y": ["b"]}, "its columns cannot be read as the first file's: "),
    ],
)
def test_files_that_are_not_alike_are_refused(written: Written, second: dict[str, Any], said: str) -> None:
    source = written(a={"x": pa.array([1], pa.int32()), "y": ["a"]}, b=second)
    with pytest.raises(DataError) as caught:
        list(read_pieces(source, 10, 0))
    assert str(caught.value).startswith(f"{source.files[1]}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_times_are_those_of_a_log(tmp_path: Path, unit: str, zone: str | None) -> None:
    moment = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
    nanos = int(moment.timestamp()) * 10**9 + np.array([0, 1, 499, 500, 501, 1_500, 10**9])
    times = pa.array(nanos, pa.timestamp("ns", "UTC")).cast(pa.timestamp(unit, "UTC"), safe=False)
    column = times.cast(pa.timestamp(unit, zone)) if zone else pa.array(times.cast(pa.int64()), pa.timestamp(unit))
    log = pa.table({"user_id": [1] * 7, "item_id": range(7), "timestamp": column})
    config = DataConfig(log=str(write(log, tmp_path / "log.parquet")))
    prepared = prepare(config, tmp_path / "out", notify=silent).events(0)
    assert times_of(log, "timestamp", 0, "log").tolist() == prepared["time"].to_pylist()


def test_times_of_other_types(written: Written) -> None:
    for values in (pa.array([3, 4], pa.int8()), pa.array([3.0, 4.0]), pa.array([3, 4], pa.uint64())):
        assert times_of(pa.table({"t": values}), "t", 0, "in").tolist() == [3, 4]
    for values, said in (
        (pa.array([3.5]), "in: column 't' does not hold times"),
        (pa.array([float("nan")]), "in: column 't' does not hold times"),
        (pa.array([1, None]), r"in: column 't', row 1,008 \(from 0\): the time is null; every candidate needs one"),
        (pa.array([2**63], pa.uint64()), "in: column 't' does not hold times"),
    ):
        with pytest.raises(DataError, match=f"^{said}"):
            times_of(pa.table({"t": values}), "t", 1007, "in")


def test_dense_context_is_finite_numbers() -> None:
    piece = pa.table({"a": [1.5, 2.5], "b": [True, False], "c": pa.array([1, 2], pa.int16()), "d": [1.0, 1e39]})
    assert dense_of(piece, ("c", "a", "b"), 0, "in").tolist() == [[1.0, 1.5, 1.0], [2.0, 2.5, 0.0]]
    assert dense_of(piece, (), 0, "in").shape == (2, 0)
    for values in ([1.0, None], [1.0, float("nan")], [1.0, float("inf")], [1.0, 1e39]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the error says all
            with pytest.raises(DataError, match=r"^in: column 'a', row 8 \(from 0\) is not a finite number; fix it$"):
                dense_of(pa.table({"a": values}), ("a",), 7, "in")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(random_log(), tmp_path_factory.mktemp("trained"), LABELLED)


GOOD: dict[str, Any] = {
    "user_id": [100],
    "item_id": [300],
    "timestamp": [5000],
    "position": [1],
    "price": [0.5],
    "age": [30],
}


def test_columns_are_the_logs_unless_named(written: Written, trained: TrainedModel) -> None:
    source = written(a=GOOD)
    expected = CandidateNames("user_id", "item_id", "timestamp", ("position",), ("price", "age"))
    assert CandidateNames.of(CandidateColumns(), trained, source) == expected
    renamed = {"uid": [1], "sku": [1], "ts": [1]} | {name: GOOD[name] for name in ("position", "price", "age")}
    other = written(a=renamed)
    named = CandidateColumns(user="uid", item="sku", time="ts")
    found = CandidateNames.of(named, trained, other)
    assert (found.user, found.item, found.time) == ("uid", "sku", "ts")
    assert CandidateNames.of(CandidateColumns(user="uid", item="sku"), trained, other).time is None


def test_columns_of_an_impression_file_are_its_own(written: Written, trained: TrainedModel) -> None:
    shown = ImpressionFile(path="shown", user="viewer", time="at")
    card = trained.card.model_copy(update={"impressions": shown, "columns": Columns(time="when")})
    source = written(a={"viewer": [1], "item_id": [1], "at": [1]})
    of_file = TrainedModel(trained.model, trained.vocabularies, card)
    assert CandidateNames.of(CandidateColumns(), of_file, source) == CandidateNames("viewer", "item_id", "at", (), ())


def without(*names: str) -> dict[str, Any]:
    return {name: values for name, values in GOOD.items() if name not in names}


@pytest.mark.parametrize(
    ("columns", "table", "said"),
    [
        ({}, without("user_id"), "no column 'user_id'; its columns are item_id, timestamp"),
        ({}, without("item_id"), "no column 'item_id'"),
        ({}, without("position"), "no column 'position'; its columns are"),
        ({}, without("age"), "no column 'age'; its columns are"),
        ({"time": "when"}, GOOD, "no column 'when'"),
        ({"user": "who"}, GOOD, "no column 'who'"),
        ({}, GOOD | {"user_id": [1.0]}, "column 'user_id' holds floats, but an id must be integers or strings"),
        ({}, GOOD | {"item_id": [[1]]}, "column 'item_id' holds list"),
        ({}, GOOD | {"item_id": ["a"]}, "column 'item_id' holds strings, but the model was trained on integers"),
        ({}, GOOD | {"position": ["a"]}, "column 'position' holds strings, but the model was trained on integers"),
        ({}, GOOD | {"position": [1.0]}, "column 'position' holds floats, but the model was trained on integers"),
        ({}, GOOD | {"timestamp": ["2026"]}, "column 'timestamp' holds strings, but the time must be integers or"),
        ({}, GOOD | {"timestamp": [datetime.date(2026, 1, 1)]}, "column 'timestamp' holds dates"),
        ({}, GOOD | {"price": ["0.5"]}, "column 'price' holds strings, but the dense must be numbers"),
        ({}, GOOD | {"prediction": [1]}, "there is a column 'prediction' already; name another: --columns.prediction"),
        ({"prediction": "age"}, GOOD, "there is a column 'age' already"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(
    written: Written, trained: TrainedModel, columns: dict[str, str], table: dict[str, Any], said: str
) -> None:
    source = written(a=table)
    with pytest.raises(DataError) as caught:
        CandidateNames.of(CandidateColumns.model_validate(columns), trained, source)
    assert said in str(caught.value)
    assert str(caught.value).startswith((str(source.files[0]), source.path))
    assert "\n" not in str(caught.value)


def test_a_time_that_only_some_files_have_is_refused(written: Written, trained: TrainedModel) -> None:
    source = written(a=without("timestamp"), b=GOOD)
    with pytest.raises(DataError, match=r"a.parquet: no column 'timestamp'"):
        CandidateNames.of(CandidateColumns(), trained, source)


def test_ids_that_are_all_null_are_unknown_ones(written: Written, trained: TrainedModel) -> None:
    nothing = pa.nulls(1)
    source = written(a=GOOD | {"user_id": nothing, "item_id": nothing, "position": nothing})
    assert CandidateNames.of(CandidateColumns(), trained, source).item == "item_id"
