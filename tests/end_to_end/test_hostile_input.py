"""What a hostile but fair user hands to train_ctr: one line that names the mistake, or rows counted and set aside."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.small_runs import Ended, one_line, run_forked

Table = Callable[[pa.Table], pa.Table]


def change(column: str, values: Callable[[np.ndarray], Any]) -> Table:
    """Replace a column by what a function makes of it."""

    def changed(table: pa.Table) -> pa.Table:
        array = values(table[column].to_numpy())
        return table.set_column(table.column_names.index(column), column, pa.array(array))

    return changed


def nulls_at(column: str, *rows: int) -> Table:
    def changed(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        for row in rows:
            values[row] = None
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    return changed


def replaced(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values = values.astype(np.float64)
    values[row] = value
    return values


@dataclass(frozen=True)
class Case:
    """A log, or arguments, and what the one line on stderr says after `error: `; {log} is the log's path."""

    says: tuple[str, ...]
    table: Table | None = None
    arguments: tuple[str, ...] = ()
    file: Callable[[Path], object] | None = None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)


REFUSED = {
    "missing file": Case(
        ("{log}: no such file or folder; did you mean",), file=lambda p: p.rename(p.parent / "lag.parquet")
    ),
    "an empty folder": Case(("{log}: no file ending in .parquet",), file=lambda p: (p.unlink(), p.mkdir())),
    "not Parquet": Case(("{log}: not a Parquet file",), file=lambda p: p.write_text("user_id,item_id\n1,2\n")),
    "nothing in it": Case(("{log}: not a Parquet file",), file=lambda p: p.write_bytes(b"")),
    "truncated": Case(("{log}: not a Parquet file, or truncated",), file=truncate),
    "damaged inside": Case(("{log}: ",), file=damage_pages),
    "missing column": Case(
        ("{log}: no column 'clicked'; did you mean 'click'?",),
        lambda t: t.rename_columns({"clicked": "click"}),
    ),
    "time is text": Case(
        ("{log}: column 'timestamp' holds strings", "cast"), change("timestamp", lambda v: v.astype(str))
    ),
    "label is text": Case(("{log}: column 'clicked' holds strings", "map"), change("clicked", lambda v: v.astype(str))),
    "label is a rating": Case(
        ("column 'clicked', row ", "set impressions.threshold"), change("clicked", lambda v: v + 1)
    ),
    "id is a list": Case(("{log}: column 'item_id' holds list",), change("item_id", lambda v: [[x] for x in v])),
    "empty log": Case(("{log}: the log is empty",), lambda t: t.slice(0, 0)),
    "null user": Case(("{log}: column 'user_id', row 7 (from 0): user_id is null", "bad_rows"), nulls_at("user_id", 7)),
    "null item": Case(("column 'item_id', row 0 (from 0): item_id is null",), nulls_at("item_id", 0, 3)),
    "NaN time": Case(("column 'timestamp', row 5 ", "is NaN"), change("timestamp", lambda v: replaced(v, 5, np.nan))),
    "negative time": Case(
        ("column 'timestamp', row 9 ", "is negative"), change("timestamp", lambda v: replaced(v, 9, -1))
    ),
    "all rows bad": Case(
        ("{log}: no row is left after the bad ones are set aside",),
        change("timestamp", lambda v: -v),
        ("--data.bad_rows", "set_aside"),
    ),
    "labels of one class": Case(
        ("{log}: all ", "labels of the train split are 1"), change("clicked", lambda v: v * 0 + 1)
    ),
    "test labels of one class": Case(
        ("{log}: all ", "labels of the test split are 0"),
        lambda t: change("clicked", lambda v: np.where(np.arange(len(v)) > 2300, 0, v))(
            change("timestamp", lambda v: np.arange(len(v)))(t)
        ),
        ("--data.split.kind", "time", "--data.split.test_from", "2310", "--data.split.validation_from", "2000"),
    ),
    "validation labels of one class": Case(
        ("{log}: all ", "labels of the validation split are 0", "raise data.split.validation"),
        lambda t: change("clicked", lambda v: np.where(t["timestamp"].to_numpy() % 4 == 1, 0, v))(
            change("timestamp", lambda v: np.arange(len(v)))(t)
        ),
        ("--data.split.kind", "time", "--data.split.validation_from", "2401", "--data.split.test_from", "2402"),
    ),
    "duplicates are errors": Case(
        ("{log}: row 40 (from 0) repeats row 3",),
        lambda t: pa.concat_tables([t.slice(0, 40), t.slice(3, 1), t.slice(40)]),
        ("--data.duplicate_rows", "error"),
    ),
    "no test rows": Case(("{log}: no impression falls in the test split",), arguments=("--data.split.test", "0")),
    "no validation rows": Case(
        ("{log}: no impression falls in the validation split",), arguments=("--data.split.validation", "0")
    ),
    "nothing to train on": Case(
        ("{log}: no impression falls in the train split",),
        arguments=("--data.split.kind", "time", "--data.split.validation_from", "1", "--data.split.test_from", "2"),
    ),
    "split shares": Case(
        ("leave nothing to train on",), arguments=("--data.split.validation", "0.6", "--data.split.test", "0.4")
    ),
    "one item": Case(
        ("next_event needs at least 2",),
        change("item_id", lambda v: v * 0),
        ("--data.impressions.kind", "next_event"),
    ),
    "unknown key": Case(
        ("optimizer.lrr (command line): unknown key; did you mean optimizer.lr?",), arguments=("--optimizer.lrr", "1")
    ),
    "out of range": Case(("optimizer.lr = 7", "must be less than or equal to 1"), arguments=("--optimizer.lr", "7")),
    "not a number": Case(
        ("training.epochs = 'many'", "must be a valid integer"), arguments=("--training.epochs", "many")
    ),
    "unknown kind": Case(
        ("model.machine.kind = 'lstm'", "must be one of associative"), arguments=("--model.machine.kind", "lstm")
    ),
    "heads do not divide": Case(("does not divide token_dim 8",), arguments=("--model.window.num_heads", "3")),
    "rehearsal's heads do not divide": Case(
        ("rehearsal.num_heads is 3, which does not divide model.token_dim 8",),
        arguments=("--rehearsal.num_heads", "3"),
    ),
    "rehearsal without a part": Case(
        ("recollection_weight and familiarity_weight are both 0: set rehearsal to null to train without",),
        arguments=("--rehearsal.recollection_weight", "0", "--rehearsal.familiarity_weight", "0"),
    ),
    "missing config file": Case(
        ("nowhere.yaml: cannot be read: No such file",), arguments=("--config", "nowhere.yaml")
    ),
    "broken YAML": Case(("broken.yaml, line 3: broken YAML",), arguments=("--config", "broken.yaml")),
    "an argument alone": Case(("'quick' is not expected here",), arguments=("quick",)),
    "device that does not exist": Case(
        ("training.device 'cuda:99' cannot be used here",), arguments=("--training.device", "cuda:99")
    ),
    "no device at all": Case(
        ("training.device 'toaster' cannot be used here",), arguments=("--training.device", "toaster")
    ),
    "a device without numbers": Case(
        ("training.device 'meta' cannot be used here",), arguments=("--training.device", "meta")
    ),
    "out is a file": Case(("{log}: File exists; name a path that can be written",), arguments=("--out", "{log}")),
    "out is below a file": Case(("{log}/run: Not a directory; name a path",), arguments=("--out", "{log}/run")),
    "no such MLflow": Case(
        ("tracking.uri nonsense://x: MLflow cannot open a run there",), arguments=("--tracking.uri", "nonsense://x")
    ),
    "a name MLflow refuses": Case(
        ("tracking.register_as 'a/b': MLflow refuses it",), arguments=("--tracking.register_as", "a/b")
    ),
    "carried columns hide predictions": Case(
        ("data.impressions.carry", "prediction"),
        lambda t: t.append_column("prediction", pa.array(np.zeros(len(t)))),
        ("--data.impressions.carry", "prediction"),
    ),
}


@pytest.fixture
def train(tmp_path: Path, log: Path, quickstart: Callable[..., list[str]]) -> Callable[..., tuple[Ended, Path]]:
    """Run a small training in a folder of its own, on the small log or what is made of it."""

    def job(case: Case) -> tuple[Ended, Path]:
        path = tmp_path / "log.parquet"
        table = pq.read_table(log)
        pq.write_table(table if case.table is None else case.table(table), path)
        if case.file is not None:
            case.file(path)
        (tmp_path / "broken.yaml").write_text("data:\n  log: [a\nb: }")
        more = [argument.format(log=path) for argument in case.arguments]
        argv = quickstart(tmp_path / "run", "--data.log", str(path), "--training.epochs", "1", *more)
        return run_forked(tmp_path, "pipelines.train_ctr", *argv), path

    return job


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name: str, train: Callable[..., tuple[Ended, Path]]) -> None:
    ended, path = train(REFUSED[name])
    line = one_line(ended)
    for words in REFUSED[name].says:
        assert words.format(log=path) in line
    assert "defect" not in line


def bad_here_and_there(table: pa.Table) -> pa.Table:
    table = nulls_at("user_id", 7)(table)
    table = nulls_at("clicked", 11, 12)(table)
    table = change("timestamp", lambda v: replaced(replaced(v, 5, np.nan), 9, -4))(table)
    return pa.concat_tables([table, table.slice(100, 6)])


def one_user(table: pa.Table) -> pa.Table:
    return change("user_id", lambda v: v * 0)(table)


def short_histories(table: pa.Table) -> pa.Table:
    return change("user_id", lambda v: np.arange(len(v)) // 5)(table)


def null_categories(table: pa.Table) -> pa.Table:
    return nulls_at("category_id", *range(0, len(table), 3))(table)


KEPT: dict[str, tuple[Case, dict[str, int]]] = {
    "bad rows set aside": (
        Case((), bad_here_and_there, ("--data.bad_rows", "set_aside")),
        {
            "user_id is null": 1,
            "clicked is null": 2,
            "timestamp is NaN": 1,
            "timestamp is negative": 1,
            "repeats an earlier row": 6,
        },
    ),
    "duplicate rows": (Case((), lambda t: pa.concat_tables([t, t.slice(50, 9)])), {"repeats an earlier row": 9}),
    "one user": (Case((), one_user), {}),
    "every history is shorter than a segment": (
        Case((), short_histories, ("--data.split.validation", "0.2", "--data.split.test", "0.2")),
        {},
    ),
    "item features with nulls": (Case((), null_categories), {}),
    "users as text": (Case((), change("user_id", lambda v: [f"u{x}" for x in v])), {}),
    "a path that rich would take for markup": (
        Case((), file=lambda p: (p.parent / "[red]").mkdir(), arguments=("--out", "[red]/run")),
        {},
    ),
    "a test split of a few rows": (Case((), arguments=("--data.split.test", "0.02")), {}),
    "a step so large that it learns nothing": (Case((), arguments=("--optimizer.lr", "1")), {}),
}


@pytest.mark.parametrize("name", KEPT)
def test_odd_input_is_trained_on_and_no_row_is_lost(
    name: str, train: Callable[..., tuple[Ended, Path]], tmp_path: Path
) -> None:
    case, rejects = KEPT[name]
    ended, path = train(case)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    out = tmp_path / (case.arguments[1] if "--out" in case.arguments else "run")
    assert f"Predictions {out.relative_to(tmp_path) if '--out' in case.arguments else out}" in ended.stdout
    rejected = pq.read_table(out / "prepared" / "rejects.parquet")
    kept = sum(pq.read_metadata(file).num_rows for file in (out / "prepared" / "events").iterdir())
    assert pq.read_metadata(path).num_rows == kept + len(rejected)
    found = rejected["rejected_reason"].value_counts().to_pylist()
    assert {reason["values"]: reason["counts"] for reason in found} == rejects
    for reason, count in rejects.items():
        assert f"{count} rows set aside in rejects.parquet: {reason}" in ended.stdout


def test_users_with_no_history(tmp_path: Path, log: Path, quickstart: Callable[..., list[str]]) -> None:
    """Impressions of users that the log does not know are trained on and predicted: from their item alone."""
    events = pq.read_table(log)
    shown = events.rename_columns({"clicked": "label"}).select(["user_id", "item_id", "timestamp", "label"])
    strangers = change("user_id", lambda v: 10_000 + np.arange(len(v)) // 3)(shown.slice(0, 300))
    pq.write_table(pa.concat_tables([shown, strangers]), tmp_path / "shown.parquet")
    argv = quickstart(
        *(tmp_path / "run", "--data.impressions.kind", "file"),
        *("--data.impressions.path", str(tmp_path / "shown.parquet"), "--data.split.kind", "user"),
        *("--data.split.validation", "0.2", "--data.split.test", "0.3"),
    )
    ended = run_forked(tmp_path, "pipelines.train_ctr", *argv)
    assert ended.returncode == 0, ended.stderr
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    unknown = predictions[predictions["user_id"] >= 10_000]
    assert len(unknown) > 20
    assert (unknown["history_length"] == 0).all()
    assert (predictions.loc[predictions["user_id"] < 10_000, "history_length"] > 0).any()


def test_a_full_disk_is_one_line(tmp_path: Path, quickstart: Callable[..., list[str]]) -> None:
    """A limit on the size of files stands in for a full disk: at each size something else cannot be written."""
    for limit in (100, 4_000, 40_000):
        ended = run_forked(tmp_path, "pipelines.train_ctr", *quickstart(tmp_path / f"run-{limit}"), largest_file=limit)
        # SQLite has words of its own for it, where MLflow's data base is the first file that does not fit.
        assert re.search("File too large|MLflow cannot open a run there: .*disk I/O error", one_line(ended)), limit
