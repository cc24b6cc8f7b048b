"""Candidates come in any shape of file: order, columns, folders and moments are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import LabelColumn
from pipelines.errors import SettingsError
from tests.end_to_end.scoring.scores import Scored, arguments, score
from tests.support.nights import build, random_log, train, write
from tests.support.small_runs import one_line, run_forked


def odd(table: pa.Table) -> pa.Table:
    """Give a table columns of many types, nulls in user and item, and the rows another order."""
    draw = np.random.default_rng(0)
    table = table.take(pa.array(draw.permutation(len(table))))
    count = len(table)
    moments = pa.array(draw.integers(0, 10**15, count), pa.timestamp("us", "UTC")).cast(
        pa.timestamp("us", "Asia/Tokyo")
    )
    more: dict[str, Any] = {
        "note": pa.array([None if place % 3 else f"no. {place}" for place in range(count)]),
        "kind": pa.array([f"k{place % 4}" for place in range(count)]).dictionary_encode(),
        "list": pa.array([[place, None] for place in range(count)], pa.list_(pa.int16())),
        "struct": pa.array([{"a": place, "b": str(place)} for place in range(count)]),
        "shown": moments,
        "amount": pa.array(draw.integers(0, 99, count)).cast(pa.decimal128(24, 2)),
        "raw": pa.array([bytes([place % 256]) for place in range(count)]),
        "half": pa.array(draw.random(count).astype(np.float16)),
        "wide": pa.array([f"w{place}" for place in range(count)], pa.large_string()),
        "ok": pa.array(draw.random(count) > 0.5),
    }
    for name, values in more.items():
        table = table.append_column(name, values)
    for place, name in ((0, "user_id"), (1, "item_id")):
        values = table[name].to_pylist()
        for row in (2 + place, 9, count - 1):
            values[row] = None
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    return table


def test_every_column_and_the_order_of_rows_are_kept(labelled: Scored, tmp_path: Path) -> None:
    table = odd(pa.concat_tables([labelled.candidates] * 12))
    path = write(table, tmp_path / "candidates.parquet")
    expected = score(labelled, path, tmp_path / "scores.parquet")
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.drop_columns(["prediction"]).equals(table)
    assert found.column_names == [*table.column_names, "prediction"]
    assert found.schema.field("prediction").type == pa.float32()
    assert found["prediction"].null_count == 0
    assert ((expected > 0) & (expected < 1)).all()
    # The same rows in files of uneven sizes, below folders.
    for number, (start, end) in enumerate([(0, 1), (1, 50), (50, 50), (50, len(table))]):
        write(table.slice(start, end - start), tmp_path / "in" / f"deep-{number}" / "part.parquet")
    for size in (1_000_000, 7):
        again = score(labelled, tmp_path / "in", tmp_path / f"of-files-{size}.parquet", "--part_rows", size)
        np.testing.assert_allclose(again, expected, atol=1e-6)
        found = pq.read_table(tmp_path / f"of-files-{size}.parquet")
        assert found.drop_columns(["prediction"]).equals(table)
    again = score(labelled, str(tmp_path / "in" / "*" / "part.parquet"), tmp_path / "of-glob.parquet")
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_rows_in_another_order_have_the_same_scores(labelled: Scored, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(labelled.candidates))
    shuffled = write(labelled.candidates.take(pa.array(order)), tmp_path / "shuffled.parquet")
    found = score(labelled, shuffled, tmp_path / "scores.parquet", "--part_rows", 5)
    np.testing.assert_allclose(found, labelled.expected[order], atol=1e-5)


def test_folders_name_columns(labelled: Scored, tmp_path: Path) -> None:
    table = labelled.candidates
    for day, (start, end) in {"2026-11-20": (0, 5), "2026-11-21": (5, len(table))}.items():
        write(table.slice(start, end - start), tmp_path / "in" / f"day={day}" / "part.parquet")
    np.testing.assert_allclose(
        score(labelled, tmp_path / "in", tmp_path / "scores.parquet"), labelled.expected, atol=1e-5
    )
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.drop_columns(["day", "prediction"]).equals(table)
    assert found["day"].to_pylist() == ["2026-11-20"] * 5 + ["2026-11-21"] * (len(table) - 5)


def test_a_context_that_a_folder_names_is_read(tmp_path: Path) -> None:
    shown = LabelColumn(column="clicked", context_features=("place",))
    log = random_log(events=200)
    log = log.append_column("place", pc.cast(log["position"], pa.string()))
    train(log, tmp_path, shown)
    build(tmp_path / "model", tmp_path / "memories", write(log, tmp_path / "log.parquet"), tmp_path / "out")
    scored = Scored(tmp_path / "model", tmp_path / "memories", log, np.zeros(0))
    plain = log.select(["user_id", "item_id", "place"]).sort_by("place")
    expected = score(scored, write(plain, tmp_path / "plain.parquet"), tmp_path / "expected.parquet")
    for place in "01234":
        rows = plain.filter(pc.equal(plain["place"], place)).drop_columns(["place"])
        write(rows, tmp_path / "in" / f"place={place}" / "part.parquet")
    np.testing.assert_allclose(score(scored, tmp_path / "in", tmp_path / "scores.parquet"), expected, atol=1e-6)
    assert len(np.unique(expected)) > 100


def test_the_moment_of_candidates(labelled: Scored, tmp_path: Path) -> None:
    """A column of times; or --at for all; or the moment after the store's newest event."""
    table = labelled.candidates.drop_columns(["timestamp"])
    count = len(table)
    path = write(table, tmp_path / "without.parquet")

    def with_times(values: pa.Array, name: str = "timestamp") -> Path:
        return write(table.append_column(name, values), tmp_path / f"{name}-{values.type}.parquet".replace(" ", "_"))

    newest = 1490
    neither = score(labelled, path, tmp_path / "neither.parquet")
    for at in (newest + 1, 10**9):
        of_column = score(labelled, with_times(pa.repeat(pa.scalar(at), count)), tmp_path / f"column-{at}.parquet")
        of_option = score(labelled, path, tmp_path / f"at-{at}.parquet", "--at", at)
        np.testing.assert_array_equal(of_column, of_option)
        assert (at == newest + 1) == np.array_equal(of_option, neither)
    other = with_times(pa.repeat(pa.scalar(10**9), count), "when")
    named = score(labelled, other, tmp_path / "named.parquet", "--columns.time", "when")
    np.testing.assert_array_equal(named, of_column)
    micros = pa.repeat(pa.scalar(10**9), count)
    for number, kind in enumerate(
        (pa.timestamp("us"), pa.timestamp("us", "Asia/Tokyo"), pa.timestamp("ns", "UTC"), pa.timestamp("s"))
    ):
        values = pa.array(micros.to_numpy(), pa.timestamp("us")).cast(pa.timestamp(kind.unit))
        values = pa.array(values.cast(pa.int64()), kind)
        found = score(labelled, with_times(values), tmp_path / f"zone-{number}.parquet")
        np.testing.assert_array_equal(found, of_column)
    with pytest.raises(SettingsError, match="column 'timestamp' has each candidate's time, and --at gives another"):
        score(labelled, with_times(micros), tmp_path / "both.parquet", "--at", 10**9)


def test_a_memory_that_is_not_older_than_its_candidate_is_refused(labelled: Scored, tmp_path: Path) -> None:
    ended = run_forked(
        tmp_path,
        "pipelines.score_batch",
        *arguments(labelled, write(labelled.candidates, tmp_path / "c.parquet"), tmp_path / "s.parquet"),
    )
    assert ended.returncode == 0, ended.stderr
    early = labelled.candidates.drop_columns(["timestamp"])
    argv = arguments(labelled, write(early, tmp_path / "early.parquet"), tmp_path / "t.parquet", "--at", 900)
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv))
    assert "no earlier than its candidate's time 900, and would look ahead" in line
    assert not (tmp_path / "t.parquet").exists()
