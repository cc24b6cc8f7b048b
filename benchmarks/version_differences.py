"""How far apart two versions' results are: numbers, predictions row by row, memories user by user."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from feature_store.stores import Journal, Memories, MemoryStore
from feature_store.stores.record import CHECKSUM, STATE

PREDICTION = "prediction"
COUNTS = ("events", "users", "late", "skipped_deleted", "rebuilt_users", "first_time", "last_time")


@dataclass(frozen=True)
class Finding:
    """One thing that both versions computed, and the largest difference between them."""

    what: str
    difference: float
    """Infinite where they cannot be compared; `note` then says why."""
    tolerance: float
    note: str = ""

    @property
    def equal(self) -> bool:
        """Whether the difference is within the tolerance.

        >>> Finding("loss", 2e-7, 1e-6).equal, Finding("loss", float("nan"), 1e-6).equal
        (True, False)
        """
        return self.difference <= self.tolerance


def distance(before: ArrayLike, after: ArrayLike, *, by_row: bool = False) -> float:
    """Return the largest difference of two arrays of one shape, relative to values above 1; infinite where one is NaN.

    `by_row`: relative to the largest value of its row, for rows whose numbers are sums of others of that size.

    >>> distance([0.5, 1000.0], [0.5, 1001.0]) == 1 / 1001
    True
    >>> distance([[0.5, 100.0]], [[0.75, 100.0]], by_row=True)
    0.0025
    """
    ours, theirs = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if ours.shape != theirs.shape:
        return math.inf
    size = np.maximum(1.0, np.maximum(np.abs(ours), np.abs(theirs)))
    if by_row:
        size = size.max(axis=tuple(range(1, size.ndim)), keepdims=True, initial=1.0)
    with np.errstate(invalid="ignore"):
        relative = np.abs(ours - theirs) / size
    apart = np.where(ours == theirs, 0.0, np.nan_to_num(relative, nan=math.inf))
    return float(apart.max(initial=0.0))


def numbers(
    what: str, before: Mapping[str, float | None], after: Mapping[str, float | None], tolerance: float
) -> Finding:
    """Compare named numbers; a name that one version lacks, or a number that it could not compute, is a difference."""
    unlike = sorted(
        name for name in before.keys() | after.keys() if (before.get(name) is None) != (after.get(name) is None)
    )
    if unlike or before.keys() != after.keys():
        names = unlike or sorted(before.keys() ^ after.keys())
        return Finding(what, math.inf, tolerance, f"one version alone has {', '.join(names)}")
    known = [name for name, value in before.items() if value is not None]
    return Finding(what, distance([before[name] for name in known], [after[name] for name in known]), tolerance)


def predictions(what: str, before: pa.Table, after: pa.Table, tolerance: float) -> Finding:
    """Compare predictions of the same rows, in whatever order they lie; every other column tells rows apart."""
    if set(before.column_names) != set(after.column_names):
        names = sorted(set(before.column_names) ^ set(after.column_names))
        return Finding(what, math.inf, tolerance, f"one version alone has column {', '.join(names)}")
    keys = [name for name in before.column_names if name != PREDICTION]
    lost, gained = _rows_of_one(before, after, keys), _rows_of_one(after, before, keys)
    if lost or gained:
        return Finding(what, math.inf, tolerance, f"{lost:,} rows before alone, {gained:,} after alone")
    # Rows that nothing tells apart, such as a negative drawn twice, are paired by their predictions.
    order = [(name, "ascending") for name in (*keys, PREDICTION)]
    ours, theirs = (table.sort_by(order)[PREDICTION].to_numpy() for table in (before, after))
    return Finding(what, distance(ours, theirs), tolerance)


def _rows_of_one(table: pa.Table, other: pa.Table, keys: list[str]) -> int:
    """Count the rows of a table that another lacks; a row that is there twice has to be there twice in both."""
    table, other = table.select(keys), other.select(keys)
    with duckdb.connect() as connection:
        connection.register("one", table)
        connection.register("other", other)
        (found,) = connection.sql("SELECT count(*) FROM (FROM one EXCEPT ALL FROM other)").fetchall()
    return int(found[0])


def memories(what: str, before: MemoryStore, after: MemoryStore, tolerance: float) -> list[Finding]:
    """Compare what two stores hold of each user: states within a tolerance, counts, times and windows exactly.

    A state's number may be what is left of larger ones that were added up, so that its error goes with their size: a
    difference is relative to the largest number of its user's part.
    """
    names = (f"{what}: states", f"{what}: counts, times and windows")
    ours, theirs = _sorted(before), _sorted(after)
    difference = ""
    if ours.records.dtype != theirs.records.dtype:
        difference = f"records of {ours.records.dtype} before, of {theirs.records.dtype} after"
    elif not ours.users.equals(theirs.users):
        known, found = set(ours.users.to_pylist()), set(theirs.users.to_pylist())
        difference = f"{len(known - found):,} users before alone, {len(found - known):,} after alone"
    if difference:
        return [Finding(name, math.inf, tolerance, difference) for name in names]
    fields = [name for name in ours.records.dtype.names or () if name != CHECKSUM]
    apart = {name: distance(ours.records[name], theirs.records[name], by_row=name.startswith(STATE)) for name in fields}
    states = {name: value for name, value in apart.items() if name.startswith(STATE)}
    exact = {name: value for name, value in apart.items() if name not in states}
    return [_worst(names[0], states, tolerance), _worst(names[1], exact, 0.0)]


def _worst(what: str, apart: Mapping[str, float], tolerance: float) -> Finding:
    name = max(apart, key=lambda name: apart[name], default="")
    difference = apart.get(name, 0.0)
    return Finding(what, difference, tolerance, f"most in {name}" if difference else "")


def _sorted(store: MemoryStore) -> Memories:
    found = Memories.concat([Memories.none(store.facts.memory), *store.read_all()])
    users: Any = found.users.combine_chunks() if isinstance(found.users, pa.ChunkedArray) else found.users
    order = pa.compute.sort_indices(users)
    return Memories(users.take(order), found.records[order.to_numpy()])


def journals(what: str, before: Journal, after: Journal) -> Finding:
    """Compare what two stores consumed: the same files in the same builds, and what became of their events."""
    ours, theirs = (
        [({file.sha256 for file in build.files}, *(getattr(build, name) for name in COUNTS)) for build in found.builds]
        for found in (before, after)
    )
    unlike = [place + 1 for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other]
    if len(ours) != len(theirs):
        return Finding(what, math.inf, 0.0, f"{len(ours)} builds before, {len(theirs)} after")
    return Finding(what, math.inf if unlike else 0.0, 0.0, f"build {unlike[0]} differs" if unlike else "")
