"""Sorting of logs larger than memory with DuckDB: bad rows are set aside, users hashed into buckets, buckets sorted."""

# ruff: noqa: S608 - queries are built of constants, our own numbers, and identifiers quoted by `quoted`
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_config import ROW, TIME, USER, DataConfig
from feature_store.errors import DataError
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.row_checks import Check, ReadColumn, quoted, reason_index
from feature_store.logs.sorting import order_by, ranks, repeats
from feature_store.logs.staging import StagedRows
from feature_store.ragged import Ids

BUCKET_HASH = "the last 8 bytes of the MD5 of the user's id as text, little-endian, modulo the number of buckets"
DUPLICATE = "repeats an earlier row"
_ROW_HASH, _BUCKET = "row_hash", "bucket"
_CHUNK_ROWS = 1_000_000  # at most; fewer where a bucket has fewer, but enough of each bucket
_ROWS_OF_A_BUCKET = 64
_STAGED_PART = 2  # of the memory limit: the rest is for the bucket that is sorted


@contextmanager
def open_duckdb(config: DataConfig, temporary: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB, which spills to the temporary folder above the config's memory limit."""
    settings = {
        "memory_limit": f"{config.memory_limit_mb}MB",
        "temp_directory": str(temporary),
        "threads": min(4, os.cpu_count() or 1),  # each thread keeps sorted runs of its own in memory
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,  # reading a log must never access the network
        "autoload_known_extensions": False,
    }
    connection = duckdb.connect(config=settings)
    try:
        yield connection
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        is_defect = isinstance(error, duckdb.ProgrammingError | duckdb.InternalError)
        if is_defect and "ailed to read file" not in str(error):
            raise  # the query is wrong, not the data
        if isinstance(error, OSError) and error.errno is not None:
            # From the operating system, while Arrow writes; DuckDB's errors reach a reader of batches without a number.
            raise OSError(error.errno, os.strerror(error.errno), error.filename or str(temporary.parent)) from error
        raise _data_error(config, error) from error
    finally:
        connection.close()


def _data_error(config: DataConfig, error: Exception) -> DataError:
    if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in str(error):
        return DataError(
            f"{config.log}: sorting needs more than memory_limit_mb = {config.memory_limit_mb}; raise it, or lower "
            f"events_per_bucket = {config.events_per_bucket}"
        )
    reason = str(error).splitlines()[0]
    return DataError(
        f"{config.log}: DuckDB cannot read it ({reason}); write the files again, or free space if a disk is full"
    )


@dataclass(frozen=True)
class Written:
    """What was written to sorted buckets, and the numbers of the repeated rows that were left out."""

    rows: int
    users: int
    repeated: Ids


@dataclass(frozen=True)
class Bucketing:
    """The conversion of one table from the user's files to sorted buckets, in a temporary folder `work`."""

    connection: duckdb.DuckDBPyConnection
    source: ParquetSource
    columns: Sequence[ReadColumn]
    config: DataConfig
    work: Path
    name: str  # events or impressions

    @property
    def _checks(self) -> list[Check]:
        return [check for column in self.columns for check in column.checks]

    @property
    def _raw(self) -> list[str]:
        return list(dict.fromkeys(column.name for column in self.columns))

    def _run(self, query: str, **parameters: Any) -> duckdb.DuckDBPyConnection:
        used = {name: value for name, value in parameters.items() if f"${name}" in query}
        return self.connection.execute(query, used)

    def set_bad_rows_aside(self) -> dict[str, int]:
        """Write bad rows to the rejects and count them by reason; if `bad_rows` is error, raise DataError instead."""
        checks = self._checks
        reason = reason_index(checks)
        found = self._run(
            f"SELECT {reason} AS code, count(*), min({self.source.row_number}) FROM {self.source.table_sql} "
            f"WHERE {reason} IS NOT NULL GROUP BY code",
            **self.source.parameters,
        ).fetchall()
        stopping = [
            (row, code) for code, _, row in found if checks[code].always_stops or self.config.bad_rows == "error"
        ]
        if stopping:
            self._stop(*min(stopping))
        rejected = f"($reasons)[({reason}) + 1]"
        self._write_rejects("bad", rejected, f"{reason} IS NOT NULL", len(found), reasons=[c.reason for c in checks])
        counts: dict[str, int] = {}
        for code, count, _ in found:
            counts[checks[code].reason] = counts.get(checks[code].reason, 0) + count
        return dict(sorted(counts.items()))

    def write_sorted(self, num_buckets: int) -> Written:
        """Write all good rows in sorted buckets."""
        folder = self.work / "staging"
        staged = self._stage(num_buckets, folder)
        parts = [self._sort(staged, bucket) for bucket in range(num_buckets)]
        shutil.rmtree(folder, ignore_errors=True)
        repeated = np.concatenate([part.repeated for part in parts])
        if len(repeated):
            self._set_repeats_aside(repeated)
        return Written(sum(part.rows for part in parts), sum(part.users for part in parts), repeated)

    def _stage(self, num_buckets: int, folder: Path) -> StagedRows:
        """Read every good row, with its stored values, into its user's bucket."""
        stored = ", ".join(f"{column.value} AS {quoted(column.stored)}" for column in self.columns)
        user = next(column for column in self.columns if column.stored == USER)
        rows = (
            f"SELECT {stored}, {self.source.row_number} AS {ROW}, "
            f"hash({', '.join(quoted(name) for name in self._raw)}) AS {_ROW_HASH} "
            f"FROM {self.source.table_sql} WHERE {reason_index(self._checks)} IS NULL"
        )
        if num_buckets > 1:
            # MD5 costs as much as sorting: it is computed once for each user instead of each row.
            self._run(
                f"CREATE OR REPLACE TEMP TABLE user_buckets AS SELECT id, "
                f"CAST(md5_number_lower(CAST(id AS VARCHAR)) % {int(num_buckets)} AS BIGINT) AS {_BUCKET} "
                f"FROM (SELECT DISTINCT {user.value} AS id FROM {self.source.table_sql}) WHERE id IS NOT NULL",
                **self.source.parameters,
            )
            rows = f"SELECT good.*, {_BUCKET} FROM ({rows}) AS good JOIN user_buckets ON good.{USER} = user_buckets.id"
        staged = StagedRows(folder, num_buckets, self.config.memory_limit_mb * 10**6 // _STAGED_PART)
        chunk_rows = max(min(_CHUNK_ROWS, self.config.events_per_bucket), _ROWS_OF_A_BUCKET * num_buckets)
        for batch in self.connection.sql(rows, params=self.source.parameters).to_arrow_reader(chunk_rows):
            bucket = batch[_BUCKET].to_numpy() if num_buckets > 1 else np.zeros(len(batch), np.int64)
            staged.add(batch.drop_columns([_BUCKET]) if num_buckets > 1 else batch, bucket)
        return staged

    def _sort(self, staged: StagedRows, bucket: int) -> Written:
        """Write one bucket sorted by user, time and row."""
        rows = staged.bucket(bucket)
        user, time, row = ranks(_array(rows[USER])), rows[TIME].to_numpy(), rows[ROW].to_numpy()
        order = order_by(user, time, row)
        repeated: Ids = np.zeros(0, np.int64)
        if self.config.duplicate_rows != "keep":
            places, first = repeats(user[order], time[order], rows[_ROW_HASH].to_numpy()[order])
            repeated = row[order[places]]
            if len(repeated) and self.config.duplicate_rows == "error":
                earliest = np.argmin(repeated)
                self._stop_at_repeated(int(repeated[earliest]), int(row[order[first[earliest]]]))
            order = np.delete(order, places)
        target = self.work / self.name / f"bucket-{bucket:03d}.parquet"
        write_compact(rows.drop_columns([_ROW_HASH]).take(pa.array(order)), target, increasing=(TIME, ROW))
        num_users = int(np.count_nonzero(np.diff(user[order], prepend=-1)))
        return Written(len(order), num_users, repeated)

    def _set_repeats_aside(self, rows: Ids) -> None:
        """Write repeated rows, by their numbers over all files, to the rejects."""
        self.connection.register("repeats", pa.table({ROW: rows}))
        self._write_rejects("repeats", f"'{DUPLICATE}'", f"{self.source.row_number} IN (FROM repeats)", len(rows))

    def _write_rejects(self, label: str, reason: str, is_rejected: str, count: int, **parameters: Any) -> None:
        folder = self.work / "rejects"
        folder.mkdir(exist_ok=True)
        self._run(
            f"COPY (SELECT {self._as_text()}, ($names)[CAST(file_index AS BIGINT) + 1] AS rejected_file, "
            f"file_row_number AS rejected_row, {reason} AS rejected_reason FROM {self.source.table_sql} "
            f"WHERE {is_rejected} {'' if count else 'LIMIT 0'}) TO $target (FORMAT parquet)",
            names=self.source.names,
            target=str(folder / f"{self.name}-{label}.parquet"),
            **parameters,
            **self.source.parameters,
        )

    def _as_text(self) -> str:
        return ", ".join(f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name in self._raw)

    def _stop(self, row: int, code: int) -> None:
        check = self._checks[code]
        found = self._run(
            f"SELECT CAST({quoted(check.column)} AS VARCHAR) FROM {self.source.table_sql} "
            f"WHERE {self.source.row_number} = $row",
            row=row,
            **self.source.parameters,
        ).fetchone()
        assert found is not None
        file, number = self.source.locate(row)
        suffix = "" if found[0] is None else f" ({found[0]})"
        raise DataError(f"{file}: column '{check.column}', row {number} (from 0): {check.reason}{suffix}; {check.fix}")

    def _stop_at_repeated(self, row: int, first: int) -> None:
        file, number = self.source.locate(row)
        earlier, earlier_number = self.source.locate(first)
        raise DataError(
            f"{file}: row {number} (from 0) repeats row {earlier_number} of {earlier} in every column that is read "
            f"({', '.join(self._raw)}); remove it, or set duplicate_rows: set_aside or keep"
        )


def write_compact(table: pa.Table, path: Path, increasing: Sequence[str]) -> None:
    """Write a file of a prepared log; differences of neighbours are stored of columns that increase within a user."""
    path.parent.mkdir(exist_ok=True)
    others = [name for name in table.column_names if name not in increasing]
    encoding = dict.fromkeys((name for name in table.column_names if name in increasing), "DELTA_BINARY_PACKED")
    # Without Arrow's own schema, text that is dictionary-encoded here is read as plain text.
    pq.write_table(table, path, compression="zstd", use_dictionary=others, column_encoding=encoding, store_schema=False)


def _array(column: pa.ChunkedArray) -> pa.Array:
    (only,) = column.chunks
    return only


def write_rejects(connection: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Write the rejects of all tables and reasons to one file, in the order of their files and rows."""
    connection.execute(
        "COPY (FROM read_parquet($parts, union_by_name = true) ORDER BY rejected_file, rejected_row) TO $target "
        "(FORMAT parquet, COMPRESSION zstd)",
        {
            "parts": [str(part) for part in sorted((work / "rejects").iterdir())],
            "target": str(work / "rejects.parquet"),
        },
    )


def time_at_rank(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], rank: int) -> int:
    """Return the time at a rank, from 0, among all times in the given files in ascending order."""
    row = connection.execute(
        f"SELECT {TIME} FROM read_parquet($files) ORDER BY {TIME} LIMIT 1 OFFSET $rank",
        {"files": [str(file) for file in files], "rank": rank},
    ).fetchone()
    assert row is not None
    return int(row[0])
