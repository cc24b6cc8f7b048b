"""Each bad input is one line that names file, column and row, and says how to mend it."""

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from feature_store.data_config import Columns, DataConfig, ImpressionFile, LabelColumn, SplitByTime, SplitByUser
from feature_store.errors import DataError
from feature_store.logs import bucketing
from feature_store.logs.preparation import prepare
from feature_store.logs.prepared_log import PreparedLog
from tests.feature_store.small_logs import silent

Write = Callable[..., str]
LABEL = LabelColumn(column="clicked")


def good(**changed: Any) -> dict[str, Any]:
    log = {
        "user_id": [1] * 10 + [2] * 10,
        "item_id": [5, 6] * 10,
        "timestamp": list(range(20)),
        "clicked": [0, 1, 1, 0] * 5,
    }
    return log | changed


def with_row(column: str, row: int, value: Any) -> dict[str, Any]:
    log = good()
    log[column] = [value if i == row else v for i, v in enumerate(log[column])]
    return log


def error_of(config: DataConfig, out: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepare(config, out, notify=silent)
    message = str(caught.value)
    assert "\n" not in message
    with pytest.raises(DataError, match="run prepare"):  # nothing half-made is left
        PreparedLog.open(out)
    return message


def test_missing_path_names_the_nearest(tmp_path: Path, write: Write) -> None:
    write(good(), "events.parquet")
    assert "did you mean" in error_of(DataConfig(log=str(tmp_path / "event.parquet")), tmp_path / "out")
    assert "no such file" in error_of(DataConfig(log=str(tmp_path / "a" / "b")), tmp_path / "out")
    assert "no file matches" in error_of(DataConfig(log=str(tmp_path / "x*.parquet")), tmp_path / "out")
    (tmp_path / "folder").mkdir()
    assert "no file ending in .parquet" in error_of(DataConfig(log=str(tmp_path / "folder")), tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"user_id,item_id\n1,2\n", lambda b: b""])
def test_not_parquet(tmp_path: Path, write: Write, damage: Callable[[bytes], bytes]) -> None:
    write(good(), "log/a.parquet")
    bad = Path(write(good(), "log/b.parquet"))
    bad.write_bytes(damage(bad.read_bytes()))
    message = error_of(DataConfig(log=str(tmp_path / "log")), tmp_path / "out")
    assert re.search(r"b\.parquet: not a Parquet file, or truncated .*write it again", message)


def test_damaged_pages(tmp_path: Path, write: Write) -> None:
    path = Path(write(pa.table({"user_id": list(range(9999)), "item_id": [1] * 9999, "timestamp": [1] * 9999})))
    content = bytearray(path.read_bytes())
    content[4:20000] = b"\xff" * 19996
    path.write_bytes(content)
    assert re.search(r"cannot read it .*write the files again", error_of(DataConfig(log=str(path)), tmp_path / "out"))


def test_missing_column_lists_those_there(tmp_path: Path, write: Write) -> None:
    log = good(user=[1] * 20)
    del log["user_id"]
    message = error_of(DataConfig(log=write(log)), tmp_path / "out")
    assert "log.parquet: no column 'user_id'; did you mean 'user'?" in message
    assert "item_id, timestamp, clicked, user" in message


def test_column_missing_in_one_file(tmp_path: Path, write: Write) -> None:
    write(good(), "log/a.parquet")
    log = good()
    del log["timestamp"]
    write(log, "log/b.parquet")
    message = error_of(DataConfig(log=str(tmp_path / "log")), tmp_path / "out")
    assert "b.parquet: no column 'timestamp'" in message


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("timestamp", ["2024-01-01"] * 20, "holds strings, but the time must be integers or timestamps"),
        ("timestamp", [True, False] * 10, "holds booleans, but the time must be"),
        ("user_id", [1.5] * 20, "holds floats, but an id must be integers or strings"),
        ("item_id", [b"x"] * 20, "holds binary, but an id must be"),
        ("clicked", ["yes"] * 20, "holds strings, but the label must be numbers or booleans"),
        ("price", ["1"] * 20, "holds strings, but the dense must be numbers"),
        ("tags", [["a"]] * 20, "holds list<element: string>, but a categorical feature must be"),
    ],
)
def test_mistyped_column(tmp_path: Path, write: Write, column: str, values: list[Any], expected: str) -> None:
    log = good(price=[1.0] * 20, tags=["a"] * 20) | {column: values}
    impressions = LabelColumn(column="clicked", context_dense=("price",), context_features=("tags",))
    message = error_of(DataConfig(log=write(log), impressions=impressions), tmp_path / "out")
    assert f"log.parquet: column '{column}' {expected}" in message


def test_one_column_of_two_types(tmp_path: Path, write: Write) -> None:
    write(good(), "log/a.parquet")
    write(good(user_id=["u"] * 20), "log/b.parquet")
    message = error_of(DataConfig(log=str(tmp_path / "log")), tmp_path / "out")
    assert re.search(r"b\.parquet: column 'user_id' holds strings, but integers in .*a\.parquet; write both", message)


def test_empty_log(tmp_path: Path, write: Write) -> None:
    empty = pa.table(good()).slice(0, 0)
    assert "the log is empty (0 rows in 1 files)" in error_of(DataConfig(log=write(empty)), tmp_path / "out")


FLOAT_TIMES = [float(i) for i in range(20)]
BAD_ROWS = [
    (with_row("user_id", 3, None), "user_id", "user_id is null"),
    (with_row("item_id", 3, None), "item_id", "item_id is null"),
    (with_row("timestamp", 3, None), "timestamp", "timestamp is null"),
    (with_row("timestamp", 3, -1), "timestamp", "timestamp is negative"),
    (good(timestamp=[*FLOAT_TIMES[:3], float("nan"), *FLOAT_TIMES[4:]]), "timestamp", "timestamp is NaN"),
    (good(timestamp=[*FLOAT_TIMES[:3], 3.5, *FLOAT_TIMES[4:]]), "timestamp", "timestamp is not a whole number"),
    (
        good(timestamp=[*FLOAT_TIMES[:3], float("inf"), *FLOAT_TIMES[4:]]),
        "timestamp",
        "timestamp is not a whole number",
    ),
    (
        good(timestamp=[datetime.datetime(1960 if i == 3 else 2024, 1, 1) for i in range(20)]),
        "timestamp",
        "timestamp is negative",
    ),
    (good(user_id=pa.array([1, 1, 1, 2**63] + [2] * 16, pa.uint64())), "user_id", "user_id does not fit 64 bits"),
    (with_row("clicked", 3, None), "clicked", "clicked is null"),
    (good(clicked=[0.0, 1.0, 1.0, float("nan")] + [0.0, 1.0] * 8), "clicked", "clicked is NaN"),
    (good(price=[1.0, 2.0, 3.0, float("inf")] + [0.0] * 16), "price", "price is not finite"),
    (good(price=[1.0, 2.0, 3.0, None] + [0.0] * 16), "price", "price is null"),
]


@pytest.mark.parametrize(("log", "column", "reason"), BAD_ROWS)
def test_bad_row_stops_or_is_set_aside(
    tmp_path: Path, write: Write, log: dict[str, Any], column: str, reason: str
) -> None:
    write(good(**({"price": [1.0] * 20} if "price" in log else {}), **_like(log)), "log/a.parquet")
    write(log, "log/b.parquet")
    impressions = LabelColumn(column="clicked", context_dense=("price",) if "price" in log else ())
    config = DataConfig(log=str(tmp_path / "log"), impressions=impressions, duplicate_rows="keep")
    message = error_of(config, tmp_path / "out")
    assert re.search(rf"b\.parquet: column '{column}', row 3 \(from 0\): {reason}.*; fix the row, or set", message)

    said: list[str] = []
    config = config.model_copy(update={"bad_rows": "set_aside"})
    prepared = prepare(config, tmp_path / "out", notify=said.append, for_training=False)
    assert prepared.manifest.rejects == {f"events: {reason}": 1}
    assert prepared.manifest.events == 39
    assert any("1 rows set aside" in line and reason in line for line in said)
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(r["rejected_file"], r["rejected_row"], r["rejected_reason"]) for r in rejects] == [
        ("b.parquet", 3, reason)
    ]
    assert rejects[0]["item_id"] == (None if column == "item_id" else "6")


def _like(log: dict[str, Any]) -> dict[str, Any]:
    """Give the good file the bad one's timestamps' type."""
    kind = pa.array(log["timestamp"]).type
    return {"timestamp": pa.array(range(20), pa.int64()).cast(kind)} if pa.types.is_timestamp(kind) else {}


def test_first_bad_row_is_the_first_in_the_log(tmp_path: Path, write: Write) -> None:
    log = good(user_id=[1] * 7 + [None] * 13, timestamp=[0] * 5 + [-1] * 15)
    assert "column 'timestamp', row 5 " in error_of(DataConfig(log=write(log)), tmp_path / "out")


def test_labels_beyond_0_and_1_always_stop(tmp_path: Path, write: Write) -> None:
    config = DataConfig(log=write(with_row("clicked", 4, 3)), impressions=LABEL, bad_rows="set_aside")
    message = error_of(config, tmp_path / "out")
    assert re.search(r"column 'clicked', row 4 \(from 0\): clicked is neither 0 nor 1 \(3\); set .*threshold", message)


def test_a_threshold_of_zero_is_a_threshold(tmp_path: Path, write: Write) -> None:
    log = good(clicked=[-1.0, 0.0] * 10)
    config = DataConfig(log=write(log), impressions=LabelColumn(column="clicked", threshold=0))
    prepared = prepare(config, tmp_path / "out", notify=silent, for_training=False)
    assert prepared.events(0)["label"].to_pylist() == [0, 1] * 10


def test_labels_of_one_class(tmp_path: Path, write: Write) -> None:
    moments = SplitByTime(validation_from=12, test_from=16)
    train = DataConfig(log=write(good(clicked=[1] * 12 + [0, 1] * 4)), impressions=LABEL, split=moments)
    assert "all 12 labels of the train split are 1; AUC needs both" in error_of(train, tmp_path / "out")
    test = DataConfig(log=write(good(clicked=[0, 1] * 8 + [0] * 4)), impressions=LABEL, split=moments)
    assert "all 4 labels of the test split are 0" in error_of(test, tmp_path / "out")
    said: list[str] = []
    validation = DataConfig(
        log=write(good(clicked=[0, 1] * 6 + [0] * 4 + [0, 1] * 2)), impressions=LABEL, split=moments
    )
    prepare(validation, tmp_path / "out", notify=said.append)
    assert any("all 4 labels of the validation split are 0" in line for line in said)


def test_nothing_to_train_on(tmp_path: Path, write: Write) -> None:
    config = DataConfig(log=write(good()), split=SplitByTime(validation_from=0, test_from=10))
    assert "no impression falls in the train split" in error_of(config, tmp_path / "out")
    assert prepare(config, tmp_path / "out", notify=silent, for_training=False).manifest.split_counts[0] == (0, 0)
    swapped = DataConfig(log=write(good()), split=SplitByTime(validation_from=10, test_from=5))
    assert "validation would begin at 10, after test at 5" in error_of(swapped, tmp_path / "other")


def test_an_empty_test_split_is_only_said(tmp_path: Path, write: Write) -> None:
    said: list[str] = []
    prepare(DataConfig(log=write(good()), split=SplitByUser(test=0)), tmp_path / "out", notify=said.append)
    assert any("no impression falls in the test split" in line for line in said)


def test_nothing_left(tmp_path: Path, write: Write) -> None:
    log = pa.table(good(user_id=pa.nulls(20, pa.int64())))
    message = error_of(DataConfig(log=write(log), bad_rows="set_aside"), tmp_path / "out")
    assert "no row is left after the bad ones are set aside: user_id is null (20)" in message


@pytest.mark.parametrize("policy", ["set_aside", "keep", "error"])
def test_duplicate_rows(tmp_path: Path, write: Write, policy: Any) -> None:
    write(good(), "log/a.parquet")
    rows = {name: values[4:5] for name, values in good().items()}
    write({name: [999, *value] if name == "timestamp" else value * 2 for name, value in rows.items()}, "log/b.parquet")
    config = DataConfig(log=str(tmp_path / "log"), impressions=LABEL, duplicate_rows=policy)
    if policy == "error":
        message = error_of(config, tmp_path / "out")
        assert re.search(r"b\.parquet: row 1 \(from 0\) repeats row 4 of .*a\.parquet .*set duplicate_rows", message)
        return
    prepared = prepare(config, tmp_path / "out", notify=silent, for_training=False)
    assert prepared.manifest.events == (21 if policy == "set_aside" else 22)
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [(r["rejected_file"], r["rejected_row"]) for r in rejects] == [("b.parquet", 1)] * (policy == "set_aside")


def test_rows_that_differ_in_a_column_that_is_read_are_no_duplicates(tmp_path: Path, write: Write) -> None:
    log = {"user_id": [1, 1], "item_id": [5, 5], "timestamp": [3, 3], "rating": [4.0, 5.0]}
    config = DataConfig(log=write(log), impressions=LabelColumn(column="rating", threshold=4))
    assert prepare(config, tmp_path / "out", notify=silent, for_training=False).manifest.events == 2


def test_impressions_of_other_types_than_the_log(tmp_path: Path, write: Write) -> None:
    shown = write(good(user_id=["u"] * 20), "shown.parquet")
    config = DataConfig(log=write(good()), impressions=ImpressionFile(path=shown, column="clicked"))
    message = error_of(config, tmp_path / "out")
    assert re.search(r"shown\.parquet: column 'user_id' holds strings, but the log's 'user_id' holds integers", message)


def test_bad_rows_of_the_impressions(tmp_path: Path, write: Write) -> None:
    shown = write(with_row("item_id", 2, None), "shown.parquet")
    config = DataConfig(log=write(good()), impressions=ImpressionFile(path=shown, column="clicked"))
    assert "shown.parquet: column 'item_id', row 2 " in error_of(config, tmp_path / "out")
    prepared = prepare(config.model_copy(update={"bad_rows": "set_aside"}), tmp_path / "out", notify=silent)
    assert prepared.manifest.rejects == {"impressions: item_id is null": 1}
    assert prepared.manifest.impressions == 19


@pytest.mark.parametrize("items", [("a",), ()])
def test_a_feature_is_listed_once(items: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="a: listed twice; list each once, as event or as item feature"):
        Columns(event_features=("a",) * (2 - len(items)), item_features=items)


def test_column_names_are_never_sql(tmp_path: Path, write: Write) -> None:
    name = 'x" FROM nowhere; --'
    config = DataConfig(log=write(good(**{name: ["a", None] * 10})), columns=Columns(event_features=(name,)))
    prepared = prepare(config, tmp_path / "it's [*] out", notify=silent)
    assert prepared.events(0)[f"feature:{name}"].to_pylist() == ["a", None] * 10


@pytest.mark.parametrize("role", ["time", "label", "dense"])
def test_a_nan_is_found_though_parquet_leaves_it_out_of_its_largest_value(
    tmp_path: Path, write: Write, role: str
) -> None:
    column = {"time": "timestamp", "label": "clicked", "dense": "price"}[role]
    values = [1.0, 2.0, 3.0, float("nan")] + [4.0] * 16
    log = good(**{"price": [1.0] * 20, column: values})
    impressions = LabelColumn(column="clicked", threshold=2.0, context_dense=("price",))
    config = DataConfig(log=write(log), impressions=impressions, bad_rows="set_aside", duplicate_rows="keep")
    prepared = prepare(config, tmp_path / "out", notify=silent, for_training=False)
    assert prepared.manifest.rejects == {f"events: {column} is NaN": 1}
    assert prepared.manifest.events == 19


def test_a_nan_among_categories_is_null(tmp_path: Path, write: Write) -> None:
    log = good(rating=[1.0, 2.0, float("nan"), 4.0] * 5)
    config = DataConfig(log=write(log), columns=Columns(event_features=("rating",)), duplicate_rows="keep")
    prepared = prepare(config, tmp_path / "out", notify=silent)
    assert set(prepared.events(0)["feature:rating"].to_pylist()) == {"1", "2", "4", None}


def test_a_file_damaged_inside_is_named(tmp_path: Path, write: Write) -> None:
    path = Path(write({name: values * 200 for name, values in good().items()}))
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    assert f"{path}: DuckDB cannot read it" in error_of(DataConfig(log=str(path)), tmp_path / "out")


@pytest.mark.parametrize("events_per_bucket", [10**6, 1000])
def test_a_file_damaged_where_most_of_it_was_read_is_named(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, events_per_bucket: int
) -> None:
    """The damaged column has no bad values to look for, so that it is first read while rows are sorted into buckets."""
    monkeypatch.setattr(bucketing, "_CHUNK_ROWS", 2048)
    path, rows = tmp_path / "log.parquet", 600_000
    log = {"user_id": np.arange(rows) % 300, "item_id": np.arange(rows), "timestamp": np.arange(rows)}
    text = pa.array([f"text {place * 7919 % rows}" for place in range(rows)])
    pq.write_table(pa.table({**log, "text": text}), path, use_dictionary=False, row_group_size=100_000)
    place = pq.ParquetFile(path).metadata.row_group(5).column(3).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 200 : place + 60_000] = bytes(59_800)
    path.write_bytes(content)
    columns = Columns(event_features=("text",))
    config = DataConfig(log=str(path), columns=columns, events_per_bucket=events_per_bucket)
    assert f"{path}: DuckDB cannot read it" in error_of(config, tmp_path / "out")


def test_too_little_memory_says_which_settings_to_change(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise bucketing.duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")

    monkeypatch.setattr(bucketing.StagedRows, "add", full)
    message = error_of(DataConfig(log=write(good())), tmp_path / "out")
    assert "sorting needs more than memory_limit_mb = 1000; raise it, or lower events_per_bucket = 2000000" in message
