"""The columns of a log: the types that each role allows, how values are stored, and which rows are bad, as SQL."""

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
_EXPECTED: dict[Role, str] = {
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
    is_bad: str  # SQL
    always_stops: bool = False  # a mistake in the recipe rather than in the row, which setting rows aside would hide
    fix: str = "fix the row, or set bad_rows: set_aside to count such rows and leave them out"


@dataclass(frozen=True)
class ReadColumn:
    """A column of the log, its role, and its name in the prepared log."""

    name: str
    role: Role
    stored: str
    kind: str
    threshold: float | None = None

    @property
    def _timestamp(self) -> str:
        return f"CAST({quoted(self.name)} AS {'TIMESTAMPTZ' if self.kind == ZONED else 'TIMESTAMP'})"

    @property
    def value(self) -> str:
        """The SQL of the stored value."""
        column = quoted(self.name)
        if self.role == "time":
            return f"epoch_us({self._timestamp})" if self.kind in (MOMENT, ZONED) else f"TRY_CAST({column} AS BIGINT)"
        if self.role == "label":
            threshold = 1.0 if self.threshold is None else self.threshold
            return f"CAST(CAST({column} AS DOUBLE) >= CAST('{threshold!r}' AS DOUBLE) AS TINYINT)"
        if self.role == "dense":
            return f"TRY_CAST({column} AS FLOAT)"
        if self.role == "carry":
            return f"coalesce(CAST({column} AS DOUBLE), 'NaN'::DOUBLE)"
        if self.kind in (INTEGER, BOOLEAN):
            return f"TRY_CAST({column} AS BIGINT)"
        if self.kind == FLOAT:
            # 3.0 is the category "3": pandas turns integers into floats where the column has a null.
            number = f"CAST({column} AS DOUBLE)"
            whole = f"{number} = floor({number}) AND abs({number}) < 9e15"
            text = (
                f"CASE WHEN {whole} THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END"
            )
            return f"CASE WHEN NOT isnan({number}) THEN {text} END"
        return f"CAST({column} AS VARCHAR)"

    @property
    def checks(self) -> list[Check]:
        """The checks of this column, each of which finds one kind of bad row."""
        column, name = quoted(self.name), self.name

        def check(reason: str, is_bad: str) -> Check:
            return Check(name, f"{name} {reason}", is_bad)

        checks = [] if self.role in ("category", "carry") else [check("is null", f"{column} IS NULL")]
        if self.kind == FLOAT and self.role in ("time", "label", "dense"):
            checks.append(check("is NaN", f"isnan(CAST({column} AS DOUBLE))"))
        if self.role == "time":
            if self.kind == FLOAT:
                whole = f"CAST({column} AS DOUBLE) = floor(CAST({column} AS DOUBLE))"
                checks.append(
                    check("is not a whole number", f"NOT coalesce({whole} AND {self.value} IS NOT NULL, false)")
                )
            elif self.kind == INTEGER:
                checks.append(check("does not fit 64 bits", f"{self.value} IS NULL"))
            else:
                checks.append(check("is infinite", f"NOT isfinite({self._timestamp})"))
            checks.append(check("is negative", f"{self.value} < 0"))
        elif self.role == "id" and self.kind == INTEGER:
            checks.append(check("does not fit 64 bits", f"{self.value} IS NULL"))
        elif self.role == "dense":
            checks.append(check("is not finite", f"NOT coalesce(isfinite({self.value}), false)"))
        elif self.role == "label" and self.threshold is None:
            checks.append(
                Check(
                    name,
                    f"{name} is neither 0 nor 1",
                    f"CAST({column} AS DOUBLE) NOT IN (0, 1)",
                    always_stops=True,
                    fix="set impressions.threshold, the smallest value that counts as a click",
                )
            )
        return checks


def read_column(
    source: ParquetSource, name: str, role: Role, stored: str, threshold: float | None = None
) -> ReadColumn:
    """Return how a column is read for its role; raises DataError if it is missing or has a type that is not allowed."""
    kind = source.kind(name)
    if kind not in _ALLOWED[role]:
        label = {"id": "an id", "category": "a categorical feature"}.get(role, f"the {role}")
        raise DataError(f"{source.files[0]}: column '{name}' holds {kind}, but {label} must be {_EXPECTED[role]}")
    return ReadColumn(name, role, stored, kind, threshold)


def _impression_columns(source: ParquetSource, impressions: LabelColumn | ImpressionFile) -> list[ReadColumn]:
    label = read_column(source, impressions.column, "label", LABEL, impressions.threshold)
    context = [read_column(source, name, "category", feature_column(name)) for name in impressions.context_features]
    dense = [read_column(source, name, "dense", dense_column(name)) for name in impressions.context_dense]
    return [label, *context, *dense, *(read_column(source, n, "carry", carry_column(n)) for n in impressions.carry)]


def event_columns(source: ParquetSource, config: DataConfig) -> list[ReadColumn]:
    """Return the columns read from the log of events; raises DataError if one is missing or has the wrong type."""
    columns = config.columns
    selected = [
        read_column(source, columns.user, "id", USER),
        read_column(source, columns.item, "id", ITEM),
        read_column(source, columns.time, "time", TIME),
        *(
            read_column(source, name, "category", feature_column(name))
            for name in columns.event_features + columns.item_features
        ),
    ]
    if not isinstance(config.impressions, NextEvent | ImpressionFile):
        selected += _impression_columns(source, config.impressions)
    return list({column.stored: column for column in selected}.values())  # a feature may be context too: stored once


def impression_columns(
    source: ParquetSource, impressions: ImpressionFile, events: ParquetSource, config: DataConfig
) -> list[ReadColumn]:
    """Return the columns read from files of impressions; raises DataError if a type differs from the log's."""
    selected = [
        read_column(source, impressions.user or config.columns.user, "id", USER),
        read_column(source, impressions.item or config.columns.item, "id", ITEM),
        read_column(source, impressions.time or config.columns.time, "time", TIME),
        *_impression_columns(source, impressions),
    ]
    for ours, theirs in zip(selected, (config.columns.user, config.columns.item, config.columns.time), strict=False):
        kind, other = ours.kind, events.kind(theirs)
        same = kind == other or {kind, other} <= {MOMENT, ZONED} or NOTHING in (kind, other)
        if not same and not (ours.role == "time" and {kind, other} <= {INTEGER, FLOAT}):
            raise DataError(
                f"{source.files[0]}: column '{ours.name}' holds {kind}, but the log's '{theirs}' holds {other} "
                f"({events.files[0]}); write both with one type"
            )
    return selected


def reason_index(checks: Sequence[Check]) -> str:
    """Return the SQL of the index of the first check that a row fails; null for a good row."""
    return "CASE " + " ".join(f"WHEN {check.is_bad} THEN {i}" for i, check in enumerate(checks)) + " END"
