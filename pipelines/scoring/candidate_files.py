"""Candidates to score: reading Parquet files in order and in pieces, and checking their columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_store.data_config import ITEM, TIME, USER, ImpressionFile, NextEvent, dense_column, feature_column
from feature_store.errors import DataError
from feature_store.logs.parquet_source import BOOLEAN, INTEGER, NOTHING, TEXT, ParquetSource
from feature_store.logs.row_checks import read_column
from feature_store.ragged import Ids
from pipelines.errors import first_line
from pipelines.models.artifact import ModelCard, TrainedModel
from pipelines.scoring.settings import CandidateColumns

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how Hive names the folder of nulls


@dataclass(frozen=True)
class CandidateNames:
    """The columns that scoring reads."""

    user: str
    item: str
    time: str | None
    context: tuple[str, ...]
    dense: tuple[str, ...]

    @classmethod
    def of_log(cls, card: ModelCard) -> "CandidateNames":
        """Return the columns of the log, or of the files of impressions, that a model was trained on."""
        log, impressions = card.columns, card.impressions
        if isinstance(impressions, NextEvent):
            return cls(log.user, log.item, log.time, (), ())
        user, item, time = log.user, log.item, log.time
        if isinstance(impressions, ImpressionFile):
            user, item, time = impressions.user or user, impressions.item or item, impressions.time or time
        return cls(user, item, time, impressions.context_features, impressions.context_dense)

    @classmethod
    def of(cls, columns: CandidateColumns, trained: TrainedModel, source: ParquetSource) -> "CandidateNames":
        """Return the columns by the given names, else by those of the model's log.

        Raises DataError if one is missing or cannot be read, or if the column of predictions exists already.
        """
        expected = cls.of_log(trained.card)
        user, item, time = columns.user or expected.user, columns.item or expected.item, columns.time or expected.time
        context, dense = expected.context, expected.dense
        assert time is not None  # a log always has times
        has_time = columns.time is not None or any(time in schema for schema in source.schemas)
        read_column(source, user, "id", USER)
        for column, name in ((item, ITEM), *((name, name) for name in context)):
            kind = read_column(source, column, "id" if name == ITEM else "category", feature_column(name)).kind
            trained_on = INTEGER if pa.types.is_integer(trained.vocabularies.features[name].ids.type) else TEXT
            if kind != NOTHING and (INTEGER if kind in (INTEGER, BOOLEAN) else TEXT) != trained_on:
                raise DataError(
                    f"{source.path}: column {column!r} holds {kind}, but the model was trained on {trained_on}: "
                    "all ids would be unknown; cast the column"
                )
        if has_time:
            read_column(source, time, "time", TIME)
        for name in dense:
            read_column(source, name, "dense", dense_column(name))
        if any(columns.prediction in schema for schema in source.schemas):
            raise DataError(
                f"{source.path}: there is a column {columns.prediction!r} already; name another: --columns.prediction X"
            )
        return cls(user, item, time if has_time else None, context, dense)


def read_pieces(source: ParquetSource, rows: int, skip: int) -> Iterator[pa.Table]:
    """Read all columns, `rows` rows at a time, in the order of files and rows, after the first `skip` rows.

    A piece never spans two files. Folders such as day=2026-11-20 become columns of text, as in a log. Columns have the
    types of the first file.

    Raises:
        DataError: a file has other columns than the first one, or values that cannot be cast to its types.
    """
    schema: pa.Schema | None = None
    for index, path in enumerate(source.files):
        first, count = source.first_row[index], source.file_rows[index]
        folders = [part.split("=", 1) for part in path.relative_to(source.root).parts[:-1] if "=" in part]
        with pq.ParquetFile(path) as file:
            schema = schema or _with_folders(file.schema_arrow.empty_table(), folders).schema.remove_metadata()
            if first + count <= skip:
                continue
            end = first
            for batch in file.iter_batches(batch_size=rows):
                end += len(batch)
                if end <= skip:
                    continue
                piece = pa.Table.from_batches([batch]).slice(max(0, len(batch) - (end - skip)))
                yield _cast(_with_folders(piece, folders), schema, path)


def _with_folders(piece: pa.Table, folders: list[list[str]]) -> pa.Table:
    """Add the columns that folders name; as in DuckDB, they replace columns of the same name in the file."""
    for name, text in folders:
        value = pa.scalar(None if text == _NO_VALUE else unquote(text), pa.string())
        others = [column for column in piece.column_names if column != name]
        piece = piece.select(others).append_column(name, pa.repeat(value, len(piece)))
    return piece


def _cast(piece: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    different = sorted(set(schema.names) ^ set(piece.column_names))
    if different:
        lacks = "has no" if different[0] in schema.names else "has a"
        raise DataError(
            f"{path}: {lacks} column {different[0]!r}, unlike the first file; write all with the same columns"
        )
    try:
        return piece.select(schema.names).replace_schema_metadata(None).cast(schema)
    except (KeyError, pa.ArrowException, ValueError) as error:
        reason = first_line(error)
        raise DataError(f"{path}: its columns cannot be read as the first file's: {reason}; cast them") from error


def times_of(piece: pa.Table, column: str, first_row: int, path: str) -> Ids:
    """Read times as in a log: integers, or timestamps as microseconds; raises DataError for nulls and fractions."""
    values = piece[column]
    if values.null_count:
        row = first_row + values.is_null().index(True).as_py()
        raise DataError(f"{path}: column {column!r}, row {row:,} (from 0): the time is null; every candidate needs one")
    kind = values.type
    try:
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            # Rounded like DuckDB does, which reads logs.
            return np.asarray((values.cast(pa.int64()).to_numpy() + 500) // 1000, np.int64)
        if pa.types.is_timestamp(kind):
            values = values.cast(pa.timestamp("us", tz=kind.tz))
        values = values.cast(pa.int64())
    except pa.ArrowException as error:
        reason = first_line(error)
        raise DataError(
            f"{path}: column {column!r} does not hold times, whole numbers or timestamps: {reason}"
        ) from error
    return np.asarray(values.to_numpy(), np.int64)


def dense_of(piece: pa.Table, columns: tuple[str, ...], first_row: int, path: str) -> NDArray[np.float32]:
    """Read numeric context, float32 [rows, columns]; raises DataError if a value is not a finite number."""
    values = np.zeros((piece.num_rows, len(columns)), np.float32)
    for index, name in enumerate(columns):
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and is refused below
            values[:, index] = pc.fill_null(piece[name].cast(pa.float64()), np.nan).to_numpy()
        wrong = np.flatnonzero(~np.isfinite(values[:, index]))
        if len(wrong):
            raise DataError(
                f"{path}: column {name!r}, row {first_row + int(wrong[0]):,} (from 0) is not a finite number; fix it"
            )
    return values
