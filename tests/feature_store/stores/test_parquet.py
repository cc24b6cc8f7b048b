"""Snapshots: read by other engines, swapped whole, rid of deleted users, and damaged."""

import math
import os
import resource
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.errors import DataError
from feature_store.stores import Memories, MemoryStore, bucket_of, create_store, open_store
from feature_store.testing.sample_memories import (
    FACTS,
    SCHEMA,
    USERS,
    by_user,
    fill,
    in_bucket,
    journal_at,
    memories_of,
)
from tests.feature_store.stores.child_processes import in_child

WIDE = SCHEMA.model_copy(update={"state": {"sum": (30, 32), "count": (3,)}})
TEXT = FACTS.model_copy(update={"memory": SCHEMA.model_copy(update={"user_type": "string"})})


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"parquet:{tmp_path / 'store'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def bucket_of_user(user: int) -> int:
    return int(bucket_of(pa.array([user]), 4)[0])


def file_of(folder: Path, user: int) -> Path:
    return folder / "current" / f"bucket={bucket_of_user(user):03d}" / "memories.parquet"


def ordered(store: MemoryStore) -> Memories:
    memories, found = store.get(USERS)
    assert found.all()
    return memories


def test_duckdb_and_pandas_read_it(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        memories = ordered(store)
    state, window = memories.state(), memories.window()
    query = f"FROM read_parquet('{folder}/current/*/*.parquet', hive_partitioning = true) ORDER BY user"
    by_duckdb = duckdb.connect().sql(query).fetchnumpy()
    by_pandas = pd.read_parquet(folder / "current").sort_values("user")
    for read in (by_duckdb, by_pandas):
        assert list(read["user"]) == USERS.to_pylist()
        assert [int(bucket) for bucket in read["bucket"]] == bucket_of(USERS, 4).tolist()
        for name in ("last_time", "num_events", "num_window", "checksum"):
            np.testing.assert_array_equal(read[name], memories.records[name])
        for column, values in [
            *((f"state_{name}", part) for name, part in state.items()),
            *((f"window_{name}", part) for name, part in window.items()),
        ]:
            rows = np.stack([np.asarray(row) for row in read[column]])
            np.testing.assert_array_equal(rows, values.reshape(len(USERS), math.prod(values.shape[1:])))
    assert by_pandas["state_sum"].iloc[0].dtype == np.float32


def test_the_file_is_compressed_as_measured(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
    columns = pq.read_metadata(file_of(folder, 5)).row_group(0).to_dict()["columns"]
    encodings = {column["path_in_schema"]: column["encodings"] for column in columns}
    assert {column["compression"] for column in columns} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in encodings["state_sum.list.element"]
    assert "RLE_DICTIONARY" in encodings["state_count.list.element"]
    assert "RLE_DICTIONARY" in encodings["window_time.list.element"]


def test_users_are_found_in_whichever_part_of_a_file_they_lie(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_store.stores.parquet_files.ROW_GROUP", 2)
    with create_store(address, FACTS) as store:
        written = fill(store)
        assert pq.read_metadata(file_of(folder, 5)).num_row_groups > 2
        for user in USERS.to_pylist():
            assert by_user([store.get(pa.array([user]))[0]]) == {user: written[user]}
        assert by_user(store.read_all()) == written


def test_what_a_build_did_not_touch_is_linked_not_copied(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        before = [file_of(folder, user).stat().st_ino for user in range(20)]
        with store.writer() as writer:
            writer.write(0, memories_of(in_bucket(USERS, 0), seed=3), journal_at(1, 1))
            writer.finish(journal_at(2, 0))
        after = [file_of(folder, user).stat().st_ino for user in range(20)]
        same = [old == new for old, new in zip(before, after, strict=True)]
        assert same == [bucket_of_user(user) != 0 for user in range(20)]
        for build in range(2, 5):
            fill(store, seed=build, build=build)
    assert sorted(path.name for path in folder.glob("snapshot-*")) == ["snapshot-000004", "snapshot-000005"]
    assert os.readlink(folder / "current") == "snapshot-000005"
    assert not (folder / ".building").exists()


def test_a_deleted_record_lies_in_no_file(address: str, folder: Path) -> None:
    names = pa.array([f"person-{number}@example.org" for number in range(40)])
    with create_store(address, TEXT) as store:
        fill(store, names)
        fill(store, names, seed=3, build=1)
        with store.writer() as writer:
            for bucket in range(4):
                users = in_bucket(names, bucket)
                writer.write(bucket, memories_of(users, schema=TEXT.memory), journal_at(2, bucket + 1))
            assert writer.delete(names[7].as_py())
    files = [path for path in folder.rglob("*.parquet") if path.is_file()]
    assert len(files) == 8  # of the snapshot, and of the build under way
    assert sum(pq.read_metadata(file).num_rows for file in files) == 2 * 39
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        assert b"person-7@example.org" not in file.read_bytes()
        if file.suffix == ".parquet":
            assert "person-7@example.org" not in pq.read_table(file, partitioning=None)["user"].to_pylist()


def test_readers_outlive_one_swap(address: str) -> None:
    with create_store(address, FACTS) as store, open_store(address) as reader:
        before = fill(store)
        reading = reader.read_all()
        parts = [next(reading)]
        fill(store, seed=3, build=1)
        assert by_user([*parts, *reading]) == before
        reading = reader.read_all()
        next(reading)
        fill(store, seed=4, build=2)
        fill(store, seed=5, build=3)
        with pytest.raises(DataError, match="its snapshot was replaced during the read; read it again"):
            list(reading)
        assert reader.get(USERS)[1].all()


def test_a_read_that_meets_a_swap_starts_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with create_store(address, FACTS) as store, open_store(address) as reader:
        fill(store)
        from feature_store.stores import parquet

        real, swaps = parquet.read_bucket, []

        def meeting(*arguments: Any) -> Any:
            if not swaps:
                swaps.append(1)
                fill(store, seed=3, build=1)
                swaps.append(fill(store, seed=4, build=2))
            return real(*arguments)

        monkeypatch.setattr(parquet, "read_bucket", meeting)
        assert by_user([reader.get(USERS)[0]]) == swaps[1]


def changed(file: Path, **columns: Any) -> None:
    table = pq.read_table(file, partitioning=None)
    for name, change in columns.items():
        table = table.set_column(table.column_names.index(name), name, change(table[name]))
    pq.write_table(table, file)


def test_a_damaged_value_is_found_and_its_user_named(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        user = in_bucket(USERS, 1)[2].as_py()
        file = file_of(folder, user)

        def one_more(column: pa.ChunkedArray) -> pa.Array:
            values = column.to_pylist()
            values[2] += 1
            return pa.array(values, column.type)

        changed(file, num_events=one_more)
        for read in (lambda: store.get(USERS), lambda: list(store.read_all())):
            with pytest.raises(DataError, match=f"parquet:.*memory of user {user} is damaged .checksum"):
                read()
        others = in_bucket(USERS, 0)
        assert store.get(others)[1].all()


def test_a_damaged_byte_is_found_wherever_it_lies(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        expected = fill(store)
        user = in_bucket(USERS, 1)[0].as_py()
        file, draw = file_of(folder, user), np.random.default_rng(0)
        sound = file.read_bytes()
        footer = int.from_bytes(sound[-8:-4], "little") + 8  # damage there, or in the ids, hides who is meant
        named = refused = 0
        for place in [*draw.integers(4, len(sound) - footer, 150), *draw.integers(len(sound) - footer, len(sound), 30)]:
            damaged = bytearray(sound)
            damaged[place] ^= int(draw.integers(1, 256))
            file.write_bytes(damaged)
            try:
                assert by_user(store.read_all()) == expected  # what no value depends on: statistics, a page's checksum
            except DataError as error:
                refused += "\n" not in str(error)
                named += "memory of user" in str(error)
        assert refused > 120
        assert named > 0.75 * refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state_sum": lambda column: column.cast(pa.list_(pa.float64(), 12))}, "column state_sum is"),
        ({"num_events": lambda column: pa.nulls(len(column), column.type)}, "nulls"),
        ({"user": lambda column: column.cast(pa.string())}, "its user ids are int64"),
    ],
)
def test_columns_of_another_kind_are_refused(address: str, folder: Path, change: Any, said: str) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        changed(file_of(folder, 5), **change)
        with pytest.raises(DataError, match=said):
            store.get(pa.array([5]))


def test_missing_and_damaged_files_are_told(address: str, folder: Path) -> None:
    with create_store(address, FACTS) as store:
        fill(store)
        file = file_of(folder, 5)
        file.rename(file.with_suffix(".away"))
        for read in (lambda: store.get(pa.array([5])), lambda: list(store.read_all())):
            with pytest.raises(DataError, match="the file of a bucket is missing in snapshot-000001"):
                read()
        file.with_suffix(".away").rename(file)
        for name in ("current/_snapshot.json", "_deleted.json"):
            text = (folder / name).read_text()
            (folder / name).write_text(text[:-3])
            with pytest.raises(DataError, match="damaged, or written by another version"):
                store.count()
            (folder / name).write_text(text)
        (folder / "current" / "_snapshot.json").unlink()
        with pytest.raises(DataError, match=r"damaged \(no snapshot-000001/_snapshot.json"):
            store.count()
        (folder / "current").unlink()
        with pytest.raises(DataError, match="No such file"):
            store.count()
    text = (folder / "_store.json").read_text()
    (folder / "_store.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(DataError, match="format 2, this version reads 1"):
        open_store(address)


def test_a_full_disk_leaves_the_store_as_it_was(address: str) -> None:
    facts = FACTS.model_copy(update={"memory": WIDE})
    with create_store(address, facts) as store:
        written = fill(store)
    users = in_bucket(pa.array(range(10_000)), 0)

    def write_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with open_store(address) as store, store.writer() as writer:
            writer.write(0, memories_of(users, schema=WIDE), journal_at(1, 1))

    mend = "free disk space and run again: all committed steps are kept"
    assert in_child(write_much) == f"DataError: {address}: File too large; {mend}"
    with open_store(address) as store:
        assert by_user(store.read_all()) == written
        assert store.journal() == journal_at(1, 0)
        newer = fill(store, seed=3, build=1)
        assert by_user(store.read_all()) == newer
