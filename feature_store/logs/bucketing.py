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

from feature_store.data_config import ROW, TIME, USER, DataConfig
from feature_store.errors import DataError
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.row_checks import Check, ReadColumn, quoted, reason_index

BUCKET_HASH = "the last 8 bytes of the MD5 of the user's id as text, little-endian, modulo the number of buckets"
DUPLICATE = "repeats an earlier row"


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
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"{config.log}: sorting needs more than memory_limit_mb = {config.memory_limit_mb}; raise it, or lower "
            f"events_per_bucket = {config.events_per_bucket}"
        ) from error
    except duckdb.Error as error:
        is_defect = isinstance(error, duckdb.ProgrammingError | duckdb.InternalError)
        if is_defect and "ailed to read file" not in str(error):
            raise  # the query is wrong, not the data
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{config.log}: DuckDB cannot read it ({reason}); write the files again, or free space if a disk is full"
        ) from error
    finally:
        connection.close()


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

    @property
    def _staging(self) -> Path:
        return self.work / "staging" / self.name

    @property
    def _empty(self) -> Path:
        return self.work / f"{self.name}-without-users.parquet"

    def _run(self, query: str, **parameters: Any) -> duckdb.DuckDBPyConnection:
        used = {name: value for name, value in parameters.items() if f"${name}" in query}
        return self.connection.execute(query, used)

    def set_bad_rows_aside(self) -> dict[str, int]:
        """Write bad rows to the rejects and count them by reason; if `bad_rows` is error, raise DataError instead."""
        checks = self._checks
        reason = reason_index(checks)
        stopping = [c for c in checks if c.always_stops or self.config.bad_rows == "error"]
        # CASE returns the first check that fails, so the stopping ones keep their indices among all checks.
        codes = ", ".join(str(checks.index(check)) for check in stopping)
        if stopping:
            first = self._run(
                f"SELECT {self.source.row_number} AS row, {reason} AS code, {self._as_text()} "
                f"FROM {self.source.table_sql} WHERE {reason} IN ({codes}) ORDER BY row LIMIT 1",
                **self.source.parameters,
            ).fetchone()
            if first is not None:
                row, code, *values = first
                self._stop(checks[code], row, values[self._raw.index(checks[code].column)])
        target = self._rejects_file("bad")
        self._run(
            f"COPY (SELECT {self._as_text()}, ($names)[CAST(file_index AS BIGINT) + 1] AS rejected_file, "
            f"file_row_number AS rejected_row, ($reasons)[({reason}) + 1] AS rejected_reason "
            f"FROM {self.source.table_sql} WHERE {reason} IS NOT NULL) TO $target (FORMAT parquet)",
            names=self.source.names,
            reasons=[check.reason for check in checks],
            target=str(target),
            **self.source.parameters,
        )
        counts = self._run(
            "SELECT rejected_reason, count(*) FROM read_parquet($target) GROUP BY ALL ORDER BY ALL", target=str(target)
        )
        return dict(counts.fetchall())

    def partition(self, num_buckets: int) -> None:
        """Write every good row, with its stored values, to its user's bucket."""
        stored = ", ".join(f"{column.value} AS {quoted(column.stored)}" for column in self.columns)
        user = next(column for column in self.columns if column.stored == USER)
        self._staging.mkdir(parents=True)
        rows = (
            f"SELECT {stored}, {self.source.row_number} AS {ROW}, "
            f"hash({', '.join(quoted(name) for name in self._raw)}) AS row_hash, "
            f"md5_number_lower(CAST({user.value} AS VARCHAR)) % {int(num_buckets)} AS bucket "
            f"FROM {self.source.table_sql} WHERE {reason_index(self._checks)} IS NULL"
        )
        for query, options, target in (  # the first one writes an empty table, for buckets without users
            (f"FROM ({rows}) LIMIT 0", "", self._empty),
            (rows, ", PARTITION_BY (bucket)", self._staging),
        ):
            self._run(
                f"COPY ({query}) TO $target (FORMAT parquet{options})", target=str(target), **self.source.parameters
            )

    def sort(self, bucket: int) -> tuple[int, int]:
        """Write one bucket sorted by user, time and row; return its numbers of rows and of repeated rows left out."""
        folder = self._staging / f"bucket={bucket}"
        parts = sorted(folder.iterdir()) if folder.exists() else [self._empty]
        files = {"files": [str(file) for file in parts]}
        table = "read_parquet($files, hive_partitioning = false)"
        repeats = 0
        condition = ""
        if self.config.duplicate_rows != "keep":
            repeats = self._set_duplicates_aside(bucket, table, files)
            condition = f"WHERE {ROW} NOT IN (FROM duplicates)" if repeats else ""
        target = self.work / self.name / f"bucket-{bucket:03d}.parquet"
        target.parent.mkdir(exist_ok=True)
        stored = ", ".join(quoted(column.stored) for column in self.columns)
        written = self._run(
            f"COPY (SELECT {stored}, {ROW} FROM {table} {condition} ORDER BY {USER}, {TIME}, {ROW}) "
            "TO $target (FORMAT parquet, COMPRESSION zstd)",
            target=str(target),
            **files,
        ).fetchone()
        shutil.rmtree(folder, ignore_errors=True)  # so that there are at most two copies of the log on disk
        assert written is not None
        return int(written[0]), repeats

    def _set_duplicates_aside(self, bucket: int, table: str, files: dict[str, list[str]]) -> int:
        same = f"{USER}, {TIME}, row_hash"
        if not self._run(f"SELECT 1 FROM {table} GROUP BY {same} HAVING count(*) > 1 LIMIT 1", **files).fetchall():
            return 0
        repeated = self.connection.sql(
            f"SELECT {ROW}, first FROM (SELECT {ROW}, min({ROW}) OVER (PARTITION BY {same}) AS first FROM {table}) "
            f"WHERE {ROW} > first ORDER BY {ROW}",
            params=files,
        ).to_arrow_table()
        if self.config.duplicate_rows == "error":
            row, first = repeated["row"][0].as_py(), repeated["first"][0].as_py()
            file, number = self.source.locate(row)
            earlier, earlier_number = self.source.locate(first)
            raise DataError(
                f"{file}: row {number} (from 0) repeats row {earlier_number} of {earlier} in every column that is read "
                f"({', '.join(self._raw)}); remove it, or set duplicate_rows: set_aside or keep"
            )
        self.connection.register("duplicates", repeated.select([ROW]))
        self._run(
            f"COPY (SELECT {self._as_text()}, ($names)[CAST(file_index AS BIGINT) + 1] AS rejected_file, "
            f"file_row_number AS rejected_row, '{DUPLICATE}' AS rejected_reason FROM {self.source.table_sql} "
            f"WHERE {self.source.row_number} IN (FROM duplicates)) TO $target (FORMAT parquet)",
            names=self.source.names,
            target=str(self._rejects_file(f"duplicates-{bucket:03d}")),
            **self.source.parameters,
        )
        return int(repeated.num_rows)

    def _as_text(self) -> str:
        return ", ".join(f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name in self._raw)

    def _rejects_file(self, label: str) -> Path:
        folder = self.work / "rejects"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.name}-{label}.parquet"

    def _stop(self, check: Check, row: int, value: str | None) -> None:
        file, number = self.source.locate(row)
        suffix = "" if value is None else f" ({value})"
        raise DataError(f"{file}: column '{check.column}', row {number} (from 0): {check.reason}{suffix}; {check.fix}")


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
