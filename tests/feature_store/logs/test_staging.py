"""Rows by bucket, in memory and in files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_store.logs.staging import StagedRows


def chunk(seed: int, texts: int, rows: int = 500) -> pa.RecordBatch:
    draw = np.random.default_rng(seed)
    text = pa.array([None if value == 0 else f"é{value}" for value in draw.integers(0, texts, rows)])
    return pa.RecordBatch.from_pydict({"number": draw.integers(0, 99, rows), "text": text})


MEMORY, THIRD_CHUNK_IN_FILES, FILES = 10**9, 20_000, 0


# More buckets than 16 bits can number, in memory alone: files of so many take seconds.
@pytest.mark.parametrize(
    ("num_buckets", "memory_bytes"),
    [*((few, memory) for few in (1, 3) for memory in (MEMORY, THIRD_CHUNK_IN_FILES, FILES)), (70_000, MEMORY)],
)
def test_a_bucket_has_its_rows_in_their_order(tmp_path: Path, num_buckets: int, memory_bytes: int) -> None:
    staged = StagedRows(tmp_path / "staged", num_buckets, memory_bytes)
    # Few distinct texts, which are dictionary-encoded, and in the last chunk many, which are not.
    chunks = [chunk(0, texts=4), chunk(1, texts=6), chunk(2, texts=400)]
    buckets = [np.random.default_rng(seed).integers(0, min(num_buckets, 9), 500) for seed in range(3)]
    for rows, bucket in zip(chunks, buckets, strict=True):
        staged.add(rows, bucket)
    assert any(tmp_path.rglob("*.arrow")) == (memory_bytes < MEMORY)
    whole, of_row = pa.Table.from_batches(chunks), np.concatenate(buckets)
    for bucket in range(min(num_buckets, 10)):
        expected = whole.filter(pa.array(of_row == bucket))
        found = staged.bucket(bucket)
        assert found.to_pylist() == expected.to_pylist()
        assert all(column.num_chunks == 1 for column in found.columns)
