"""What each column of a log must hold: how it is stored, and which rows are bad, as SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from feature_store.data_config import (
    ITEM,
    LABEL,
    TIME,
    USER,
    DataConfig,
    ImpressionFile,
    LabelColumn,
    NextEvent,
    carry_column,
    dense_column,
    feature_column,
)
from feature_store.errors import DataError
from feature_store.logs.parquet_source import BOOLEAN, DATE, FLOAT, INTEGER, MOMENT, NOTHING, TEXT, ZONED, ParquetSource

Role = Literal["id", "time", "category", "label", "dense", "carry"]

_ALLOWED: dict[Role, tuple[str, ...]] = {
    "id": (INTEGER, TEXT, NOTHING),
    "time": (INTEGER, FLOAT, MOMENT, ZONED),
    "category": (INTEGER, TEXT, FLOAT, BOOLEAN, DATE, NOTHING),
    "label": (INTEGER, FLOAT, BOOLEAN),
    "dense": (INTEGER, FLOAT, BOOLEAN),
    "carry": (INTEGER, FLOAT, BOOLEAN),
}
_WANTED: dict[Role, str] = {
    "id": "integers or strings (cast floats to int64)",
    "time": "integers or timestamps (parse or cast it)",
    "category": "integers, strings, floats, booleans or dates (cast it to one of them)",
    "label": "numbers or booleans (map its values to 0 and 1)",
    "dense": "numbers (cast it, or name it a categorical feature)",
    "carry": "numbers (cast it, or do not carry it)",
}


def quoted(name: str) -> str:
    """Quote an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Check:
    """One way in which a row can be bad."""

    column: str
    reason: str
    bad: str  # SQL
    always_stops: bool = False  # a mistake of the recipe rather than of the row: setting rows aside would hide it
    mend: str = "mend the row, or set bad_rows: set_aside to count such rows and leave them out"


@dataclass(frozen=True)
class ReadColumn:
    """A column of the log, what it is for, and what the prepared log calls it."""

    name: str
    role: Role
    stored: str
    kind: str
    threshold: float | None = None

    @property
    def _moment(self) -> str:
        return f"CAST({quoted(self.name)} AS {'TIMESTAMPTZ' if self.kind == ZONED else 'TIMESTAMP'})"

    @property
    def value(self) -> str:
        """The SQL of the value as it is stored."""
        column = quoted(self.name)
        if self.role == "time":
            return f"epoch_us({self._moment})" if self.kind in (MOMENT, ZONED) else f"TRY_CAST({column} AS BIGINT)"
        if self.role == "label":
            threshold = 1.0 if self.threshold is None else self.threshold
            return f"CAST(CAST({column} AS DOUBLE) >= CAST('{threshold!r}' AS DOUBLE) AS TINYINT)"
        if self.role == "dense":
            return f"TRY_CAST({column} AS FLOAT)"
        if self.role == "carry":
            return f"coalesce(CAST({column} AS DOUBLE), 'NaN'::DOUBLE)"
        if self.kind in (INTEGER, BOOLEAN):
            return f"TRY_CAST({column} AS BIGINT)"
        if (
            self.kind == FLOAT
        ):  # 3.0 is the category "3": a null elsewhere in the column turned its integers into floats
            number = f"CAST({column} AS DOUBLE)"
            whole = f"{number} = floor({number}) AND abs({number}) < 9e15"
            text = (
                f"CASE WHEN {whole} THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END"
            )
            return f"CASE WHEN NOT isnan({number}) THEN {text} END"
        return f"CAST({column} AS VARCHAR)"

    @property
    def checks(self) -> list[Check]:
        """The ways in which this column can make a row bad."""
        column, name = quoted(self.name), self.name

        def check(reason: str, bad: str) -> Check:
            return Check(name, f"{name} {reason}", bad)

        found = [] if self.role in ("category", "carry") else [check("is null", f"{column} IS NULL")]
        if self.kind == FLOAT and self.role in ("time", "label", "dense"):
            found.append(check("is NaN", f"isnan(CAST({column} AS DOUBLE))"))
        if self.role == "time":
            if self.kind == FLOAT:
                whole = f"CAST({column} AS DOUBLE) = floor(CAST({column} AS DOUBLE))"
                found.append(
                    check("is not a whole number", f"NOT coalesce({whole} AND {self.value} IS NOT NULL, false)")
                )
            elif self.kind == INTEGER:
                found.append(check("does not fit 64 bits", f"{self.value} IS NULL"))
            else:
                found.append(check("is infinite", f"NOT isfinite({self._moment})"))
            found.append(check("is negative", f"{self.value} < 0"))
        elif self.role == "id" and self.kind == INTEGER:
            found.append(check("does not fit 64 bits", f"{self.value} IS NULL"))
        elif self.role == "dense":
            found.append(check("is not finite", f"NOT coalesce(isfinite({self.value}), false)"))
        elif self.role == "label" and self.threshold is None:
            found.append(
                Check(
                    name,
                    f"{name} is neither 0 nor 1",
                    f"CAST({column} AS DOUBLE) NOT IN (0, 1)",
                    always_stops=True,
                    mend="set impressions.threshold: a click is a value of at least this",
                )
            )
        return found


def read_column(
    source: ParquetSource, name: str, role: Role, stored: str, threshold: float | None = None
) -> ReadColumn:
    """Say how a column is read for a role; one that is missing, or of a type that cannot have it, is a DataError."""
    kind = source.kind(name)
    if kind not in _ALLOWED[role]:
        what = {"id": "an id", "category": "a categorical feature"}.get(role, f"the {role}")
        raise DataError(f"{source.files[0]}: column '{name}' holds {kind}, but {what} must be {_WANTED[role]}")
    return ReadColumn(name, role, stored, kind, threshold)


def _impression_columns(source: ParquetSource, impressions: LabelColumn | ImpressionFile) -> list[ReadColumn]:
    label = read_column(source, impressions.column, "label", LABEL, impressions.threshold)
    context = [read_column(source, name, "category", feature_column(name)) for name in impressions.context_features]
    dense = [read_column(source, name, "dense", dense_column(name)) for name in impressions.context_dense]
    return [label, *context, *dense, *(read_column(source, n, "carry", carry_column(n)) for n in impressions.carry)]


def event_columns(source: ParquetSource, config: DataConfig) -> list[ReadColumn]:
    """List what is read of the log of events; a column that is missing or of the wrong type is a DataError."""
    columns = config.columns
    found = [
        read_column(source, columns.user, "id", USER),
        read_column(source, columns.item, "id", ITEM),
        read_column(source, columns.time, "time", TIME),
        *(
            read_column(source, name, "category", feature_column(name))
            for name in columns.event_features + columns.item_features
        ),
    ]
    if not isinstance(config.impressions, NextEvent | ImpressionFile):
        found += _impression_columns(source, config.impressions)
    return list({column.stored: column for column in found}.values())  # a feature may be context too: stored once


def impression_columns(
    source: ParquetSource, impressions: ImpressionFile, events: ParquetSource, config: DataConfig
) -> list[ReadColumn]:
    """List what is read of a file of impressions; its ids and times must be of the log's own types."""
    found = [
        read_column(source, impressions.user or config.columns.user, "id", USER),
        read_column(source, impressions.item or config.columns.item, "id", ITEM),
        read_column(source, impressions.time or config.columns.time, "time", TIME),
        *_impression_columns(source, impressions),
    ]
    for ours, theirs in zip(found, (config.columns.user, config.columns.item, config.columns.time), strict=False):
        kind, other = ours.kind, events.kind(theirs)
        same = kind == other or {kind, other} <= {MOMENT, ZONED} or NOTHING in (kind, other)
        if not same and not (ours.role == "time" and {kind, other} <= {INTEGER, FLOAT}):
            raise DataError(
                f"{source.files[0]}: column '{ours.name}' holds {kind}, but the log's '{theirs}' holds {other} "
                f"({events.files[0]}); write both with one type"
            )
    return found


def reason_index(checks: Sequence[Check]) -> str:
    """The SQL of the first check that a row fails, counted from 0; null for a good row."""
    return "CASE " + " ".join(f"WHEN {check.bad} THEN {i}" for i, check in enumerate(checks)) + " END"
