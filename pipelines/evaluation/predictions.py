"""Tables of predictions: read, checked, and aligned so that models can be compared row by row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from feature_store.data_config import SPLITS
from feature_store.errors import DataError
from pipelines.errors import SettingsError, first_line
from pipelines.evaluation.settings import PredictionColumns


def read_predictions(path: str, columns: PredictionColumns, split: str | None, *, with_keys: bool) -> pa.Table:
    """Read the columns that an evaluation needs from one Parquet file or folder, and the rows of one split.

    All rows are read if `split` is None or there is no column of splits. `with_keys` also reads item and time. Raises
    DataError if the file cannot be read, lacks a column or has no such rows.
    """
    file_of_run = Path(path) / "predictions.parquet"  # in a folder that train_ctr wrote
    try:
        source = ds.dataset(str(file_of_run) if file_of_run.is_file() else path, format="parquet")
        present = source.schema.names
        if not source.files:
            raise DataError(f"{path}: no Parquet file in this folder")
        missing = [name for name in columns.required() if name not in present]
        if missing:
            raise DataError(
                f"{path}: no column {missing[0]!r}; it has {', '.join(present)}; name yours with --columns.… NAME"
            )
        optional = (columns.history_length, columns.true_probability, *(columns.impression_keys() if with_keys else ()))
        read = dict.fromkeys([*columns.required(), *(name for name in optional if name in present)])
        rows = None
        if split is not None and columns.split in present:
            is_number = pa.types.is_integer(source.schema.field(columns.split).type)
            rows = pc.field(columns.split) == _split_value(path, split, is_number)
        table = source.to_table(columns=list(read), filter=rows)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {first_line(error)}") from error
    if not table.num_rows:
        where = "" if rows is None else f" of split {split!r}; choose another with --split, or null for all"
        raise DataError(f"{path}: no rows{where}")
    return table


def numbers(
    table: pa.Table, column: str, name: str, *, at_least: float = -np.inf, at_most: float = np.inf
) -> np.ndarray:
    """Return a column as float64; raises DataError if it has nulls, is not numeric or is out of bounds."""
    values = table[column]
    if values.null_count:
        raise DataError(f"{name}: column {column!r} has {values.null_count:,} nulls in {table.num_rows:,} rows")
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{name}: column {column!r} must hold numbers, it holds {kind}")
    result: np.ndarray = values.cast(pa.int8() if pa.types.is_boolean(kind) else kind).to_numpy().astype(np.float64)
    if at_least > -np.inf:
        outside = ~((result >= at_least) & (result <= at_most))
        if outside.any():
            bounds = f"at least {at_least:g}" + (f" and at most {at_most:g}" if at_most < np.inf else "")
            raise DataError(
                f"{name}: column {column!r} must be {bounds}; found {result[outside][0]:g} and the like in "
                f"{int(outside.sum()):,} of {table.num_rows:,} rows"
            )
    return result


def user_codes(table: pa.Table, column: str, name: str) -> np.ndarray:
    """Return an integer code of each row's user, for ids of any type; raises DataError if there are nulls."""
    values = table[column]
    if values.null_count:
        raise DataError(f"{name}: column {column!r} has {values.null_count:,} nulls in {table.num_rows:,} rows")
    encoded = values.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    codes: np.ndarray = encoded.indices.to_numpy()
    return codes


def align(first: pa.Table, second: pa.Table, columns: PredictionColumns) -> tuple[pa.Table, pa.Table] | str:
    """Return two tables in the same order of rows, or the reason why they do not have the same impressions."""
    if first.num_rows != second.num_rows:
        return f"they have {first.num_rows:,} and {second.num_rows:,} rows"
    keys = [name for name in columns.impression_keys() if name in first.column_names and name in second.column_names]
    compared = [*keys, columns.label]
    if not _equal(first, second, compared) and len(keys) == len(columns.impression_keys()):
        order = [(name, "ascending") for name in compared]
        try:
            first, second = first.sort_by(order), second.sort_by(order)
        except pa.ArrowException as error:
            return f"their keys cannot be sorted ({first_line(error)})"
    different = [name for name in compared if not _equal(first, second, [name])]
    return f"they differ in {', '.join(map(repr, different))}" if different else (first, second)


def distinct_names(paths: tuple[str, ...]) -> list[str]:
    """Name each file by the fewest last parts of its path that distinguish it from the others, without a common ending.

    >>> distinct_names(("runs/a/predictions.parquet", "runs/b/predictions.parquet"))
    ['a', 'b']
    >>> distinct_names(("old/a.parquet", "new/b.parquet"))
    ['a', 'b']
    """
    parts = [Path(path).with_suffix("").parts for path in paths]
    while len(paths) > 1 and min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SettingsError("predictions: the same file is given twice")


def _equal(first: pa.Table, second: pa.Table, names: list[str]) -> bool:
    for name in names:
        left, right = first[name], second[name]
        if left.type != right.type:
            try:
                right = right.cast(left.type)
            except pa.ArrowException:
                return False
        if not left.equals(right):
            return False
    return True


def _split_value(path: str, split: str, is_number: bool) -> str | int:
    if not is_number:
        return split
    if split not in SPLITS:
        raise DataError(f"{path}: splits are numbers here; --split must be one of {', '.join(SPLITS)}")
    return SPLITS.index(split)
