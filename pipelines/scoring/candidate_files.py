"""Candidates to score: Parquet files read in order, piece by piece, checked, and handed to a model."""

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
from rm_rec.config.base import Settings

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how Hive names the folder of nulls


class CandidateColumns(Settings):
    """The candidates' own column names, where they are not those of the model's log."""

    user: str | None = None
    """Whose memory answers."""
    item: str | None = None
    """What may be shown."""
    time: str | None = None
    """When: as in the log. Without such a column every candidate is of the moment `at`."""
    prediction: str = "prediction"
    """The column that is added: the click probability."""


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
        """Name the columns as the log that a model was trained on, or its impressions' own files."""
        log, shown = card.columns, card.impressions
        if isinstance(shown, NextEvent):
            return cls(log.user, log.item, log.time, (), ())
        in_file = (shown.user, shown.item, shown.time) if isinstance(shown, ImpressionFile) else (None, None, None)
        user, item, time = (own or of_log for own, of_log in zip(in_file, (log.user, log.item, log.time), strict=True))
        return cls(user, item, time, shown.context_features, shown.context_dense)

    @classmethod
    def of(cls, columns: CandidateColumns, trained: TrainedModel, source: ParquetSource) -> "CandidateNames":
        """Find the columns, by the names given or those of the model's log; DataError where one cannot be read."""
        expected = cls.of_log(trained.card)
        user, item, time = columns.user or expected.user, columns.item or expected.item, columns.time or expected.time
        context, dense = expected.context, expected.dense
        assert time is not None  # a log has times
        has_time = columns.time is not None or any(time in schema for schema in source.schemas)
        read_column(source, user, "id", USER)
        for column, name in ((item, ITEM), *((name, name) for name in context)):
            kind = read_column(source, column, "id" if name == ITEM else "category", feature_column(name)).kind
            known = INTEGER if pa.types.is_integer(trained.vocabularies.features[name].ids.type) else TEXT
            if kind != NOTHING and (INTEGER if kind in (INTEGER, BOOLEAN) else TEXT) != known:
                raise DataError(
                    f"{source.path}: column {column!r} holds {kind}, but the model was trained on {known}, so that all "
                    "would be unknown; cast the column"
                )
        if has_time:
            read_column(source, time, "time", TIME)
        for name in dense:
            read_column(source, name, "dense", dense_column(name))
        taken = next((s for s in source.schemas if columns.prediction in s), None)
        if taken is not None:
            raise DataError(
                f"{source.path}: there is a column {columns.prediction!r} already; name another: --columns.prediction X"
            )
        return cls(user, item, time if has_time else None, context, dense)


def read_pieces(source: ParquetSource, rows: int, skip: int) -> Iterator[pa.Table]:
    """Read all columns, `rows` rows at a time, in the order of files and rows, after the first `skip` rows.

    A piece ends where a file does. The names of folders (day=2026-11-20) are columns of text, as in a log. Columns keep
    the types of the first file; another file that has others, or whose values cannot be cast, is a DataError.
    """
    schema: pa.Schema | None = None
    for place, path in enumerate(source.files):
        first, count = source.first_row[place], source.file_rows[place]
        folders = [part.split("=", 1) for part in path.relative_to(source.root).parts[:-1] if "=" in part]
        with pq.ParquetFile(path) as file:
            schema = schema or _with_folders(file.schema_arrow.empty_table(), folders).schema.remove_metadata()
            if first + count <= skip:
                continue
            done = first
            for batch in file.iter_batches(batch_size=rows):
                done += len(batch)
                if done <= skip:
                    continue
                piece = pa.Table.from_batches([batch]).slice(max(0, len(batch) - (done - skip)))
                yield _cast(_with_folders(piece, folders), schema, path)


def _with_folders(piece: pa.Table, folders: list[list[str]]) -> pa.Table:
    """Add the columns that folders name; like DuckDB, which reads logs, in place of a file's own of that name."""
    for name, text in folders:
        value = pa.scalar(None if text == _NO_VALUE else unquote(text), pa.string())
        kept = [column for column in piece.column_names if column != name]
        piece = piece.select(kept).append_column(name, pa.repeat(value, len(piece)))
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
    """Read times as a log's are: integers as they are, timestamps in microseconds; a null or fraction is an error."""
    values = piece[column]
    if values.null_count:
        row = first_row + values.is_null().index(True).as_py()
        raise DataError(f"{path}: column {column!r}, row {row:,} (from 0): the time is null; every candidate needs one")
    kind = values.type
    try:
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            # Rounded as in a log, which DuckDB reads.
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
    """Read numeric context [rows, columns]; what is not a finite number is an error."""
    found = np.zeros((piece.num_rows, len(columns)), np.float32)
    for place, name in enumerate(columns):
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            found[:, place] = pc.fill_null(piece[name].cast(pa.float64()), np.nan).to_numpy()
        wrong = np.flatnonzero(~np.isfinite(found[:, place]))
        if len(wrong):
            raise DataError(
                f"{path}: column {name!r}, row {first_row + int(wrong[0]):,} (from 0) is not a finite number; mend it"
            )
    return found
