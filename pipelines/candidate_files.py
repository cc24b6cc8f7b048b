"""Candidates to score: Parquet files read in order, piece by piece, checked, and handed to a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.parquet_source import ParquetSource
from feature_store.ragged import Ids
from feature_store.schema import ImpressionFile, NextEvent, Strict
from pipelines.artifact import ModelCard


class CandidateColumns(Strict):
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
    def of(cls, columns: CandidateColumns, card: ModelCard, source: ParquetSource) -> "CandidateNames":
        """Find the columns, by the names given or those of the model's log; DataError where one is missing."""
        log, shown = card.columns, card.impressions
        in_file = (shown.user, shown.item, shown.time) if isinstance(shown, ImpressionFile) else (None, None, None)
        user, item, time = (
            given or in_impressions or in_log
            for given, in_impressions, in_log in zip(
                (columns.user, columns.item, columns.time), in_file, (log.user, log.item, log.time), strict=True
            )
        )
        context, dense = ((), ()) if isinstance(shown, NextEvent) else (shown.context_features, shown.context_dense)
        has_time = columns.time is not None or all(time in schema for schema in source.schemas)
        for name in (user, item, *([time] if has_time else []), *context, *dense):
            source.kind(name)  # says which file lacks it, and what it has
        taken = next((s for s in source.schemas if columns.prediction in s), None)
        if taken is not None:
            raise DataError(
                f"{source.path}: there is a column {columns.prediction!r} already; name another: --columns.prediction X"
            )
        return cls(user, item, time if has_time else None, context, dense)


def read_pieces(source: ParquetSource, rows: int, skip: int) -> Iterator[pa.Table]:
    """Read all columns, `rows` rows at a time, in the order of files and rows, after the first `skip` rows.

    A piece ends where a file does. Columns keep the types of the first file; another file's that cannot be cast to
    them is a DataError.
    """
    schema: pa.Schema | None = None
    for place, path in enumerate(source.files):
        first, count = source.first_row[place], source.file_rows[place]
        with pq.ParquetFile(path) as file:
            schema = schema or file.schema_arrow.remove_metadata()
            if first + count <= skip:
                continue
            done = first
            for batch in file.iter_batches(batch_size=rows):
                done += len(batch)
                if done <= skip:
                    continue
                piece = pa.Table.from_batches([batch]).slice(max(0, len(batch) - (done - skip)))
                yield _cast(piece, schema, path)


def _cast(piece: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        return piece.select(schema.names).replace_schema_metadata(None).cast(schema)
    except (KeyError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: its columns are not those of the first file: {str(error).splitlines()[0]}") from error


def times_of(piece: pa.Table, column: str, first_row: int, path: str) -> Ids:
    """Read times as the log's are: integers as they are, timestamps in microseconds; a null or fraction is an error."""
    values = piece[column]
    if values.null_count:
        row = first_row + values.is_null().index(True).as_py()
        raise DataError(f"{path}: column {column!r}, row {row:,} (from 0): the time is null; every candidate needs one")
    kind = values.type
    try:
        if pa.types.is_timestamp(kind):
            values = values.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
        elif pa.types.is_date(kind):
            values = values.cast(pa.timestamp("us")).cast(pa.int64())
        else:
            values = values.cast(pa.int64())
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: column {column!r} does not hold times, whole numbers or timestamps: {reason}"
        ) from error
    return np.asarray(values.to_numpy(), np.int64)


def dense_of(piece: pa.Table, columns: tuple[str, ...], first_row: int, path: str) -> NDArray[np.float32]:
    """Read numeric context [rows, columns]; what is not a finite number is an error."""
    found = np.zeros((piece.num_rows, len(columns)), np.float32)
    for place, name in enumerate(columns):
        found[:, place] = pc.fill_null(piece[name].cast(pa.float64()), np.nan).to_numpy()
        wrong = np.flatnonzero(~np.isfinite(found[:, place]))
        if len(wrong):
            raise DataError(
                f"{path}: column {name!r}, row {first_row + int(wrong[0]):,} (from 0) is not a finite number; mend it"
            )
    return found
