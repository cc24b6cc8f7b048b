"""What benchmarks/compare_versions.py finds to differ: numbers, rows, users, states, builds."""

import doctest
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import version_differences
from benchmarks.version_differences import Finding, distance, journals, memories, numbers, predictions
from feature_store.stores import (
    Build,
    Journal,
    MemorySchema,
    SourceFile,
    StoreFacts,
    create_store,
    make_memories,
    open_store,
)

SCHEMA = MemorySchema(state={"sum": (2,)}, dtype="float32", window_events=2, features=("item",), user_type="int64")
BUILD = Build(id="a", files=(SourceFile(name="night", sha256="f", rows=3),), events=3, users=2, last_time=9)
Store = Callable[..., str]


def test_the_examples_are_true() -> None:
    assert doctest.testmod(version_differences).failed == 0


@pytest.mark.parametrize(
    ("after", "expected"),
    [([1.0, -2.0], 0.0), ([1.5, -2.0], 0.5 / 1.5), ([1.0, math.nan], math.inf), ([1.0], math.inf)],
)
def test_a_distance_is_the_largest(after: list[float], expected: float) -> None:
    assert distance([1.0, -2.0], after) == pytest.approx(expected)
    assert distance(after, [1.0, -2.0]) == pytest.approx(expected)


def test_a_distance_by_rows_is_relative_to_each_rows_largest_value() -> None:
    before, after = [[0.1, 50.0], [0.1, 0.2]], [[0.2, 50.0], [0.1, 0.2]]
    assert distance(before, after, by_row=True) == pytest.approx(0.1 / 50)
    assert distance(before[::-1], [[0.2, 0.2], [0.1, 50.0]], by_row=True) == pytest.approx(0.1)


def test_infinite_values_that_agree_are_no_difference() -> None:
    assert distance([math.inf, -math.inf], [math.inf, -math.inf]) == 0.0
    assert distance([math.inf], [-math.inf]) == math.inf


def test_numbers_are_compared_by_name() -> None:
    before = {"loss": 0.5, "auc": None}
    assert numbers("run", before, {"auc": None, "loss": 0.5 + 1e-7}, 1e-6).equal
    assert numbers("run", before, {"auc": None, "loss": 0.5 + 1e-5}, 1e-6) == Finding("run", pytest.approx(1e-5), 1e-6)
    for after in ({"loss": 0.5}, {"loss": 0.5, "auc": 0.7}, {"loss": 0.5, "auc": None, "more": 1.0}):
        found = numbers("run", before, after, 1.0)
        assert not found.equal
        assert found.note.startswith("one version alone has ")


def rows(prediction: list[float], user: list[int] | None = None) -> pa.Table:
    return pa.table({"user": user or [1, 2, 2], "label": [0.0, 1.0, 1.0], "prediction": prediction})


def test_predictions_are_compared_row_by_row_in_any_order() -> None:
    before = rows([0.1, 0.2, 0.3])
    assert predictions("p", before, before.take([2, 0, 1]), 0.0).difference == 0.0
    found = predictions("p", before, rows([0.1, 0.3, 0.25]), 1e-6)
    assert found.difference == pytest.approx(0.05)
    assert not found.equal
    assert predictions("p", before, rows([0.1, 0.3, 0.25]), 0.1).equal
    # The same values, of other rows.
    assert not predictions("p", before, rows([0.2, 0.1, 0.3]), 1e-6).equal


def test_missing_rows_are_counted() -> None:
    before = rows([0.1, 0.2, 0.3])
    assert predictions("p", before, before.slice(1), 1.0).note == "1 rows before alone, 0 after alone"
    # Of two equal rows one is missing, and another is there instead.
    found = predictions("p", before, rows([0.1, 0.2, 0.3], [1, 2, 1]), 1.0)
    assert found.note == "1 rows before alone, 1 after alone"
    assert found.difference == math.inf
    assert "column label" in predictions("p", before, before.drop_columns(["label"]), 1.0).note


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make a store of two users: `store("before", sums=...)`."""

    def made(name: str, *, sums: object = ((1, 2), (3, 4)), users: object = (1, 2), events: int = 5) -> str:
        address = f"parquet:{tmp_path / name}"
        ids = pa.array(users, pa.int64())
        window = {
            "time": np.arange(4).reshape(2, 2),
            "time_gap": np.zeros((2, 2), np.int64),
            "item": np.ones((2, 2), np.int64),
        }
        counts = {"last_time": np.array([8, 9]), "num_events": np.array([4, events]), "num_window": np.array([2, 2])}
        found = make_memories(SCHEMA, ids, {"sum": np.array(sums, np.float32)}, window=window, **counts)
        with create_store(address, StoreFacts(space_id="s", memory=SCHEMA, num_buckets=1)) as new, new.writer() as out:
            out.write(0, found, Journal())
            out.finish(Journal(builds=(BUILD,)))
        return address

    return made


def compared(before: str, after: str) -> list[Finding]:
    with open_store(before) as ours, open_store(after) as theirs:
        return memories("m", ours, theirs, 1e-6)


def test_memories_are_compared_user_by_user(store: Store) -> None:
    before = store("before")
    other_order = store("same", sums=((3, 4), (1, 2 + 1e-7)), users=(2, 1), events=5)
    states, exact = compared(before, store("copy"))
    assert (states.difference, exact.difference) == (0.0, 0.0)
    states, exact = compared(before, other_order)
    assert states.equal
    assert not exact.equal  # the other user has the other's counts
    states, exact = compared(before, store("apart", sums=((1, 2), (3.5, 4))))
    assert states == Finding("m: states", pytest.approx(0.5 / 4), 1e-6, "most in state.sum")
    assert exact.equal
    states, exact = compared(before, store("counted", events=6))
    assert states.equal
    assert exact.note == "most in num_events"
    assert not exact.equal


def test_users_that_one_version_lacks_are_counted(store: Store) -> None:
    for found in compared(store("before"), store("others", users=(1, 3))):
        assert not found.equal
        assert found.note == "1 users before alone, 1 after alone"


@pytest.mark.parametrize(
    ("builds", "note"),
    [
        ((), "1 builds before, 0 after"),
        ((BUILD.model_copy(update={"late": 1}),), "build 1 differs"),
        ((BUILD.model_copy(update={"files": ()}),), "build 1 differs"),
    ],
)
def test_builds_are_compared_by_what_they_consumed(builds: tuple[Build, ...], note: str) -> None:
    found = journals("j", Journal(builds=(BUILD,)), Journal(builds=builds))
    assert not found.equal
    assert found.note == note
    assert journals("j", Journal(builds=(BUILD,)), Journal(builds=(BUILD.model_copy(update={"id": "b"}),))).equal
