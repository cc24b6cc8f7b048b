"""Candidates that cannot be scored are refused in one line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.scoring.scores import Scored, arguments
from tests.support.nights import write
from tests.support.small_runs import one_line, run_forked


def changed(table: pa.Table, name: str, values: Sequence[Any] | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


WRONG: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no user": (lambda t: t.drop_columns(["user_id"]), "no column 'user_id'"),
    "no context": (lambda t: t.drop_columns(["price"]), "no column 'price'"),
    "users of text": (
        lambda t: changed(t, "user_id", t["user_id"].cast(pa.string())),
        "its user ids are int64, the given ones are",
    ),
    "users of floats": (lambda t: changed(t, "user_id", t["user_id"].cast(pa.float64())), "'user_id' holds floats"),
    "items of text": (lambda t: changed(t, "item_id", t["item_id"].cast(pa.string())), "was trained on integers"),
    "times of text": (lambda t: changed(t, "timestamp", t["timestamp"].cast(pa.string())), "'timestamp' holds strings"),
    "dense of text": (lambda t: changed(t, "price", t["price"].cast(pa.string())), "'price' holds strings"),
    "a null time": (lambda t: changed(t, "timestamp", [*t["timestamp"].to_pylist()[:-1], None]), "the time is null"),
    "a null dense": (lambda t: changed(t, "age", [None, *t["age"].to_pylist()[1:]]), "'age', row 0 (from 0) is not a"),
    "a prediction": (lambda t: t.append_column("prediction", t["price"]), "there is a column 'prediction' already"),
    "no row": (lambda t: t.slice(0, 0), "is empty (0 rows in 1 files)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_candidates_are_one_line(labelled: Scored, tmp_path: Path, name: str) -> None:
    change, said = WRONG[name]
    path = write(change(labelled.candidates), tmp_path / "candidates.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(labelled, path, tmp_path / "s.parquet")))
    assert said in line
    assert not (tmp_path / "s.parquet").exists()


def test_wrong_places_are_one_line(labelled: Scored, tmp_path: Path) -> None:
    path = write(labelled.candidates, tmp_path / "in" / "candidates.parquet")
    nobody = Scored(labelled.model, tmp_path / "nowhere", labelled.candidates, labelled.expected)
    elsewhere = tmp_path / "s.parquet"
    cases: list[tuple[Scored, Path, Path, str]] = [
        (labelled, path, tmp_path / "in", "in: is a folder; name the Parquet file to write"),
        (labelled, path, path, "candidates.parquet: is among the candidates"),
        (labelled, path.parent, path.parent / "deep" / "s.parquet", "s.parquet: is among the candidates"),
        (labelled, tmp_path / "nothing", elsewhere, "nothing: no such file or folder"),
        (nobody, path, elsewhere, "nowhere: no memories here"),
        (labelled, path, path / "s.parquet", "Not a directory; name a path that can be written"),
    ]
    for scored, candidates, out, said in cases:
        line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(scored, candidates, out)))
        assert said in line
    assert pq.read_table(path).equals(labelled.candidates)


def test_a_full_disk_is_one_line(labelled: Scored, tmp_path: Path) -> None:
    path = write(pa.concat_tables([labelled.candidates] * 20), tmp_path / "candidates.parquet")
    argv = arguments(labelled, path, tmp_path / "s.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv, largest_file=2_000))
    assert "File too large" in line
    assert not (tmp_path / "s.parquet").exists()
    assert run_forked(tmp_path, "pipelines.score_batch", *argv).returncode == 0
