"""A log's files: known by their content, taken one by one, rows counted over those that were taken."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from feature_store.errors import DataError
from feature_store.logs import parquet_source
from feature_store.logs.parquet_source import ParquetSource


@pytest.fixture
def source(tmp_path: Path, write: Callable[..., str]) -> ParquetSource:
    for name, rows in (("a", 3), ("b", 0), ("c", 5), ("d", 2)):
        write(pa.table({"x": pa.array(range(rows), pa.int64())}), f"log/day={name}/part.parquet")
    return ParquetSource.open(str(tmp_path / "log"))


def test_rows_and_hashes_of_each_file(source: ParquetSource) -> None:
    assert source.file_rows == [3, 0, 5, 2]
    assert source.file_hashes == [hashlib.sha256(file.read_bytes()).hexdigest() for file in source.files]


def test_some_files_are_a_source_of_their_own(source: ParquetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = source.file_hashes
    monkeypatch.setattr(parquet_source.hashlib, "file_digest", None)  # what is known is not read again
    some = source.only([2, 3])
    assert some.names == ["day=c/part.parquet", "day=d/part.parquet"]
    assert (some.num_rows, some.file_rows, some.first_row) == (7, [5, 2], (0, 5))
    assert some.file_hashes == hashes[2:]
    assert some.schemas == source.schemas[2:]
    assert some.locate(6) == (source.files[3], 1)
    assert source.only([3, 0]).names == ["day=d/part.parquet", "day=a/part.parquet"]
    assert some.content_hash() != source.content_hash() == source.only(range(4)).content_hash()


def test_files_whose_folders_name_other_columns_are_refused(tmp_path: Path, write: Callable[..., str]) -> None:
    write({"x": [1]}, "log/a.parquet")
    write({"x": [1]}, "log/day=1/b.parquet")
    with pytest.raises(DataError) as caught:
        ParquetSource.open(str(tmp_path / "log"))
    assert str(caught.value) == (
        f"{tmp_path}/log/day=1/b.parquet: its folders have the partition columns day, those of "
        f"{tmp_path}/log/a.parquet have none; partition all files alike"
    )
