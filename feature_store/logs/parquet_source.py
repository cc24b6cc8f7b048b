"""A log's Parquet files: one file, a folder of them (hive-partitioned or not) or a glob, read as one table."""

import difflib
import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.errors import DataError
from feature_store.files import sha256_of_file

INTEGER, FLOAT, TEXT, BOOLEAN, MOMENT, ZONED, DATE, NOTHING = (
    "integers",
    "floats",
    "strings",
    "booleans",
    "timestamps",
    "timestamps with a time zone",
    "dates",
    "only nulls",
)


def kind_of(arrow_type: pa.DataType) -> str:
    """Return the kind of values in a column; a type that no column of a log may have is returned by its Arrow name."""
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    tests = (
        (pa.types.is_boolean, BOOLEAN),
        (pa.types.is_integer, INTEGER),
        (pa.types.is_floating, FLOAT),
        (pa.types.is_decimal, FLOAT),
        (pa.types.is_date, DATE),
        (pa.types.is_null, NOTHING),
    )
    for test, kind in tests:
        if test(arrow_type):
            return kind
    if pa.types.is_timestamp(arrow_type):
        return ZONED if arrow_type.tz else MOMENT
    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or str(arrow_type) == "string_view":
        return TEXT
    return str(arrow_type)


def find_files(path: str) -> tuple[Path, list[Path]]:
    """Find the Parquet files of a path; return the folder that their names are relative to, and the sorted files.

    In a folder, names that begin with "." or "_" are skipped, as in Spark and Hive.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given.parent, [given]
    if given.is_dir():
        inside = (file for file in given.rglob("*.parquet") if file.is_file())
        files = sorted(f for f in inside if not any(p[0] in "._" for p in f.relative_to(given).parts))
        if not files:
            raise DataError(f"{path}: no file ending in .parquet in this folder; name the folder that holds the log")
        return given, files
    if glob.has_magic(path):
        files = sorted(Path(name) for name in glob.glob(str(given), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"{path}: no file matches this pattern; check it with `ls {path}`")
        return Path(os.path.commonpath([file.parent for file in files])), files
    similar = difflib.get_close_matches(given.name, os.listdir(given.parent) if given.parent.is_dir() else [], n=1)
    hint = (
        f"; did you mean {given.parent / similar[0]}?"
        if similar
        else "; name a Parquet file, a folder of them or a glob"
    )
    raise DataError(f"{path}: no such file or folder{hint}")


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files read as one table, in the order of their names; rows are numbered over all files."""

    path: str
    root: Path
    files: tuple[Path, ...]
    schemas: tuple[dict[str, str], ...]  # for each file: column -> kind
    first_row: tuple[int, ...]  # for each file: the number of rows in the files before it
    num_rows: int

    @classmethod
    def open(cls, path: str) -> "ParquetSource":
        """Find the files and read their footers; raises DataError if one is not a complete Parquet file."""
        root, files = find_files(path)
        schemas, counts, partitions = [], [], []
        for file in files:
            try:
                with pq.ParquetFile(file) as parquet:
                    schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise DataError(
                    f"{file}: not a Parquet file, or truncated ({reason}); write it again or remove it"
                ) from error
            kinds = {field.name: kind_of(field.type) for field in schema}
            columns = [part.split("=", 1)[0] for part in file.relative_to(root).parts[:-1] if "=" in part]
            partitions.append(columns)
            if columns != partitions[0]:
                ours, first = (", ".join(names) or "none" for names in (columns, partitions[0]))
                raise DataError(
                    f"{file}: its folders have the partition columns {ours}, those of {files[0]} have {first}; "
                    "partition all files alike"
                )
            schemas.append(kinds | dict.fromkeys(columns, TEXT))
            counts.append(num_rows)
        if not any(counts):
            raise DataError(f"{path}: the log is empty (0 rows in {len(files)} files); name one with events")
        first_row = tuple(accumulate(counts[:-1], initial=0))
        return cls(path, root, tuple(files), tuple(schemas), first_row, sum(counts))

    @property
    def names(self) -> list[str]:
        """The files' names, relative to the root folder."""
        return [str(file.relative_to(self.root)) for file in self.files]

    @cached_property
    def table_sql(self) -> str:
        """The SQL of the table of all files, which are its parameter $files."""
        hive = any("=" in part for name in self.names for part in Path(name).parts[:-1])
        flag = "true" if hive else "false"
        # Without can_have_nan DuckDB uses a file's statistics, which leave NaN out, and evaluates isnan() to false.
        return (
            f"read_parquet($files, union_by_name = true, can_have_nan = true, hive_partitioning = {flag}"
            f"{', hive_types_autocast = false' if hive else ''})"
        )

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The parameters of `table_sql`; glob characters in names are escaped."""
        escaped = ["".join(f"[{c}]" if c in "[*?" else c for c in str(file)) for file in self.files]
        return {"files": escaped}

    @property
    def row_number(self) -> str:
        """The SQL of a row's number over all files."""
        starts = ", ".join(str(start) for start in self.first_row)
        return f"(CAST([{starts}] AS BIGINT[]))[CAST(file_index AS BIGINT) + 1] + file_row_number"

    def locate(self, row: int) -> tuple[Path, int]:
        """Convert a row's number over all files to its file and its number there, from 0."""
        index = int(np.searchsorted(self.first_row, row, side="right")) - 1
        return self.files[index], row - self.first_row[index]

    def kind(self, column: str) -> str:
        """Return the kind of values in a column; raises DataError if a file lacks it, or files differ in kind."""
        kinds: dict[str, Path] = {}
        for file, schema in zip(self.files, self.schemas, strict=True):
            if column not in schema:
                similar = difflib.get_close_matches(column, schema, n=1)
                hint = f"did you mean '{similar[0]}'? " if similar else ""
                raise DataError(f"{file}: no column '{column}'; {hint}its columns are {', '.join(schema)}")
            kinds.setdefault(schema[column], file)
        if len(kinds) > 1:
            kinds.pop(NOTHING, None)
        if kinds.keys() == {INTEGER, FLOAT}:
            return FLOAT
        if len(kinds) > 1:
            (first, file), (second, other) = list(kinds.items())[:2]
            raise DataError(
                f"{other}: column '{column}' holds {second}, but {first} in {file}; write both files with one type"
            )
        return next(iter(kinds))

    @cached_property
    def file_hashes(self) -> list[str]:
        """The SHA-256 of each file's content."""
        return [sha256_of_file(file) for file in self.files]

    @property
    def file_rows(self) -> list[int]:
        """The number of rows in each file."""
        return [end - start for start, end in pairwise([*self.first_row, self.num_rows])]

    def content_hash(self) -> str:
        """Hash the files' names and contents (SHA-256)."""
        digest = hashlib.sha256()
        for name, file_hash in zip(self.names, self.file_hashes, strict=True):
            digest.update(f"{name}\0{file_hash}\0".encode())
        return digest.hexdigest()

    def only(self, indices: Sequence[int]) -> "ParquetSource":
        """Return a source of some of the files, in the given order."""
        counts = [self.file_rows[index] for index in indices]
        selected = ParquetSource(
            path=self.path,
            root=self.root,
            files=tuple(self.files[index] for index in indices),
            schemas=tuple(self.schemas[index] for index in indices),
            first_row=tuple(accumulate(counts[:-1], initial=0)),
            num_rows=sum(counts),
        )
        vars(selected)["file_hashes"] = [self.file_hashes[index] for index in indices]  # known, so not computed again
        return selected
