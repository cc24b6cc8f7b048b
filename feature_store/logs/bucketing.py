"""Sorts a log larger than memory with DuckDB: sets bad rows aside, hashes users into buckets, sorts each bucket."""

# ruff: noqa: S608 - what is put into a query is a constant, a number of ours, or an identifier through `quoted`
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
    """Open DuckDB in memory; beyond the config's limit it spills to the temporary folder."""
    settings = {
        "memory_limit": f"{config.memory_limit_mb}MB",
        "temp_directory": str(temporary),
        "threads": min(4, os.cpu_count() or 1),  # each thread holds its own sort runs
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,  # a log is never a reason to reach the network
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
        of_ours = isinstance(error, duckdb.ProgrammingError | duckdb.InternalError)
        if of_ours and "ailed to read file" not in str(error):
            raise  # a query of ours is wrong, not the data
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{config.log}: DuckDB cannot read it ({reason}); write the files again, or make room if a disk is full"
        ) from error
    finally:
        connection.close()


@dataclass(frozen=True)
class Bucketing:
    """One table on its way from the user's files to sorted buckets; `work` is a folder that is thrown away."""

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
        """Write bad rows to the rejects and count them by reason; by policy the first is a DataError instead."""
        checks = self._checks
        reason = reason_index(checks)
        stopping = [c for c in checks if c.always_stops or self.config.bad_rows == "error"]
        # CASE takes the first check that fails, so the stopping ones keep their place among the others.
        codes = ", ".join(str(checks.index(check)) for check in stopping)
        if stopping:
            first = self._run(
                f"SELECT {self.source.row_number} AS row, {reason} AS code, {self._as_text()} "
                f"FROM {self.source.scan} WHERE {reason} IN ({codes}) ORDER BY row LIMIT 1",
                **self.source.parameters,
            ).fetchone()
            if first is not None:
                row, code, *values = first
                self._stop(checks[code], row, values[self._raw.index(checks[code].column)])
        target = self._rejects_part("bad")
        self._run(
            f"COPY (SELECT {self._as_text()}, ($names)[CAST(file_index AS BIGINT) + 1] AS rejected_file, "
            f"file_row_number AS rejected_row, ($reasons)[({reason}) + 1] AS rejected_reason "
            f"FROM {self.source.scan} WHERE {reason} IS NOT NULL) TO $target (FORMAT parquet)",
            names=self.source.names,
            reasons=[check.reason for check in checks],
            target=str(target),
            **self.source.parameters,
        )
        counted = self._run(
            "SELECT rejected_reason, count(*) FROM read_parquet($target) GROUP BY ALL ORDER BY ALL", target=str(target)
        )
        return dict(counted.fetchall())

    def partition(self, num_buckets: int) -> None:
        """Write every good row, as it is stored, to its user's bucket."""
        stored = ", ".join(f"{column.value} AS {quoted(column.stored)}" for column in self.columns)
        user = next(column for column in self.columns if column.stored == USER)
        self._staging.mkdir(parents=True)
        rows = (
            f"SELECT {stored}, {self.source.row_number} AS {ROW}, "
            f"hash({', '.join(quoted(name) for name in self._raw)}) AS row_hash, "
            f"md5_number_lower(CAST({user.value} AS VARCHAR)) % {int(num_buckets)} AS bucket FROM {self.source.scan} "
            f"WHERE {reason_index(self._checks)} IS NULL"
        )
        for query, options, target in (  # first the columns, for buckets without users
            (f"FROM ({rows}) LIMIT 0", "", self._empty),
            (rows, ", PARTITION_BY (bucket)", self._staging),
        ):
            self._run(
                f"COPY ({query}) TO $target (FORMAT parquet{options})", target=str(target), **self.source.parameters
            )

    def sort(self, bucket: int) -> tuple[int, int]:
        """Write one bucket sorted by user, time and row; returns how many rows it has and how many repeated others."""
        here = self._staging / f"bucket={bucket}"
        rows = sorted(here.iterdir()) if here.exists() else [self._empty]
        files = {"files": [str(file) for file in rows]}
        scan = "read_parquet($files, hive_partitioning = false)"
        repeats = 0
        kept = ""
        if self.config.duplicate_rows != "keep":
            repeats = self._set_duplicates_aside(bucket, scan, files)
            kept = f"WHERE {ROW} NOT IN (FROM duplicates)" if repeats else ""
        target = self.work / self.name / f"bucket-{bucket:03d}.parquet"
        target.parent.mkdir(exist_ok=True)
        stored = ", ".join(quoted(column.stored) for column in self.columns)
        written = self._run(
            f"COPY (SELECT {stored}, {ROW} FROM {scan} {kept} ORDER BY {USER}, {TIME}, {ROW}) "
            "TO $target (FORMAT parquet, COMPRESSION zstd)",
            target=str(target),
            **files,
        ).fetchone()
        shutil.rmtree(here, ignore_errors=True)  # so that at most two copies of the log lie on the disk
        assert written is not None
        return int(written[0]), repeats

    def _set_duplicates_aside(self, bucket: int, scan: str, files: dict[str, list[str]]) -> int:
        same = f"{USER}, {TIME}, row_hash"
        if not self._run(f"SELECT 1 FROM {scan} GROUP BY {same} HAVING count(*) > 1 LIMIT 1", **files).fetchall():
            return 0
        repeated = self.connection.sql(
            f"SELECT {ROW}, first FROM (SELECT {ROW}, min({ROW}) OVER (PARTITION BY {same}) AS first FROM {scan}) "
            f"WHERE {ROW} > first ORDER BY {ROW}",
            params=files,
        ).to_arrow_table()
        if self.config.duplicate_rows == "error":
            row, first = repeated["row"][0].as_py(), repeated["first"][0].as_py()
            file, number = self.source.place(row)
            earlier, earlier_number = self.source.place(first)
            raise DataError(
                f"{file}: row {number} (from 0) repeats row {earlier_number} of {earlier} in every column that is read "
                f"({', '.join(self._raw)}); take it out, or set duplicate_rows: set_aside or keep"
            )
        self.connection.register("duplicates", repeated.select([ROW]))
        self._run(
            f"COPY (SELECT {self._as_text()}, ($names)[CAST(file_index AS BIGINT) + 1] AS rejected_file, "
            f"file_row_number AS rejected_row, '{DUPLICATE}' AS rejected_reason FROM {self.source.scan} "
            f"WHERE {self.source.row_number} IN (FROM duplicates)) TO $target (FORMAT parquet)",
            names=self.source.names,
            target=str(self._rejects_part(f"duplicates-{bucket:03d}")),
            **self.source.parameters,
        )
        return int(repeated.num_rows)

    def _as_text(self) -> str:
        return ", ".join(f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name in self._raw)

    def _rejects_part(self, what: str) -> Path:
        folder = self.work / "rejects"
        folder.mkdir(exist_ok=True)
        return folder / f"{self.name}-{what}.parquet"

    def _stop(self, check: Check, row: int, value: str | None) -> None:
        file, number = self.source.place(row)
        shown = "" if value is None else f" ({value})"
        raise DataError(f"{file}: column '{check.column}', row {number} (from 0): {check.reason}{shown}; {check.mend}")


def write_rejects(connection: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Gather the rejects of all tables and reasons in one file, in the order of their files and rows."""
    connection.execute(
        "COPY (FROM read_parquet($parts, union_by_name = true) ORDER BY rejected_file, rejected_row) TO $target "
        "(FORMAT parquet, COMPRESSION zstd)",
        {
            "parts": [str(part) for part in sorted((work / "rejects").iterdir())],
            "target": str(work / "rejects.parquet"),
        },
    )


def time_at_rank(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], rank: int) -> int:
    """Find the time that has `rank` smaller or equal times before it in the given sorted buckets."""
    found = connection.execute(
        f"SELECT {TIME} FROM read_parquet($files) ORDER BY {TIME} LIMIT 1 OFFSET $rank",
        {"files": [str(file) for file in files], "rank": rank},
    ).fetchone()
    assert found is not None
    return int(found[0])
