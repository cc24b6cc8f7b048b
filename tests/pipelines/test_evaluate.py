"""The evaluation job: its numbers are the library's, its files are whole, bad input is one line and exit code 2."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from feature_store.errors import DataError
from pipelines.cli.job import run_job
from pipelines.errors import SettingsError
from pipelines.evaluate import main
from pipelines.evaluation.evaluated import evaluate_predictions
from pipelines.evaluation.predictions import align, distinct_names, read_predictions
from pipelines.evaluation.settings import MetricsConfig, PredictionColumns

Save = Callable[..., str]


def table(noise: float = 0.1, rows: int = 600) -> pa.Table:
    generator = np.random.default_rng(0)
    truth = generator.random(rows)
    return pa.table(
        {
            "user_id": [f"u{number % 40}" for number in range(rows)],
            "item_id": generator.integers(0, 9, rows),
            "timestamp": np.arange(rows),
            "split": np.where(np.arange(rows) % 2, "test", "train"),
            "label": (generator.random(rows) < truth).astype(np.int64),
            "history_length": generator.integers(0, 1500, rows),
            "true_probability": truth,
            "prediction": np.clip(truth + np.random.default_rng(1).normal(0, noise, rows), 0, 1).astype(np.float32),
        }
    )


def with_column(name: str, values: object) -> pa.Table:
    found = table()
    return found.set_column(found.column_names.index(name), name, pa.array(values))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(found: pa.Table, name: str = "p.parquet") -> str:
        pq.write_table(found, tmp_path / name)
        return str(tmp_path / name)

    return write


def test_one_model_end_to_end(save: Save, tmp_path: Path) -> None:
    path, out = save(table()), tmp_path / "out"
    command = [sys.executable, "-m", "pipelines.evaluate", "--predictions", path, "--out", str(out)]
    ended = subprocess.run([*command, "--metrics.resamples", "20"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Grouped AUC, by impressions" in ended.stdout
    assert "\x1b" not in ended.stdout
    values = json.loads((out / "metrics.json").read_text())
    found = values["models"]["p"]
    tested = table().filter(pa.compute.equal(table()["split"], "test"))
    area = roc_auc_score(tested["label"].to_numpy(), tested["prediction"].to_numpy())
    assert found["overall"]["auc"]["value"] == pytest.approx(area)
    assert found["overall"]["auc"]["low"] < area < found["overall"]["auc"]["high"]
    assert found["overall"]["rows"] == 300
    assert found["best_possible_auc"] == pytest.approx(
        roc_auc_score(tested["label"].to_numpy(), tested["true_probability"].to_numpy())
    )
    assert list(found["by_history"]) == ["1-31", "32-99", "100-199", "200-499", "500-999", "1000+"]
    assert values["config"]["metrics"]["resamples"] == 20
    text = (out / "report.md").read_text()
    assert f"| AUC | {area:.4f} [" in text
    for image in ("calibration.png", "auc_by_history.png"):
        assert f"({image})" in text
        assert (out / image).read_bytes().startswith(b"\x89PNG")


def test_the_same_folder_may_be_written_again(save: Save, tmp_path: Path) -> None:
    path, out = save(table()), tmp_path / "deep" / "out"
    for resamples in ("0", "5"):
        assert main(["--predictions", path, "--out", str(out), "--metrics.resamples", resamples]) == 0
    assert json.loads((out / "metrics.json").read_text())["config"]["metrics"]["resamples"] == 5


def test_two_models_are_compared_whatever_the_order_of_rows(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better = table(0.01).take(np.random.default_rng(5).permutation(600))
    argv = ["--predictions", save(table(0.5), "old.parquet"), "--predictions", save(better, "new.parquet")]
    assert main([*argv, "--out", str(tmp_path / "out"), "--metrics.resamples", "50", "--split", "null"]) == 0
    values = json.loads((tmp_path / "out" / "metrics.json").read_text())
    area = values["differences"]["new less old, same impressions"][0]
    overall = {name: found["overall"]["auc"]["value"] for name, found in values["models"].items()}
    assert area["value"] == pytest.approx(overall["new"] - overall["old"])
    assert area["low"] > 0
    assert area["share_better"] == 1.0
    assert values["notes"] == []
    assert (tmp_path / "out" / "auc_by_model.png").exists()
    assert "new less old, same impressions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (table().slice(0, 598), "they have 300 and 299 rows"),
        (with_column("timestamp", np.arange(600) + 1), "they differ in 'timestamp'"),
        (with_column("label", 1 - table()["label"].to_numpy()), "'label'"),
    ],
)
def test_models_of_other_impressions_are_not_compared(
    save: Save, capsys: pytest.CaptureFixture[str], other: pa.Table, why: str
) -> None:
    argv = ["--predictions", save(table(), "a.parquet"), "--predictions", save(other, "b.parquet")]
    assert main([*argv, "--metrics.resamples", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "b is not compared with a: they are not the same impressions" in said
    assert why in said
    assert "b less a" not in said


def test_only_user_label_and_prediction_are_needed_under_any_name(save: Save) -> None:
    renamed = table().select(["user_id", "label", "prediction"]).rename_columns(["who", "clicked", "p"])
    columns = PredictionColumns(user="who", label="clicked", prediction="p")
    found = read_predictions(save(renamed), columns, "test", with_keys=True)
    reported = evaluate_predictions(found, columns, MetricsConfig(resamples=0))
    assert reported.overall.rows == 600
    assert not reported.by_history
    assert reported.best_possible_auc is None
    assert reported.overall.auc.low is None


def test_only_the_columns_and_rows_needed_are_read(save: Save) -> None:
    found = read_predictions(save(table()), PredictionColumns(), "train", with_keys=False)
    assert set(found.column_names) == {"user_id", "label", "prediction", "history_length", "true_probability"}
    assert found.num_rows == 300


def test_splits_may_be_numbered(save: Save) -> None:
    path = save(with_column("split", np.arange(600) % 3))
    found = read_predictions(path, PredictionColumns(), "test", with_keys=True)
    assert found["timestamp"].to_pylist()[:2] == [2, 5]
    with pytest.raises(DataError, match="must be one of train, validation, test"):
        read_predictions(path, PredictionColumns(), "holdout", with_keys=True)


def test_labels_may_be_booleans() -> None:
    labels = table()["label"].to_numpy().astype(bool)
    found = evaluate_predictions(with_column("label", labels), PredictionColumns(), MetricsConfig(resamples=0))
    whole = evaluate_predictions(table(), PredictionColumns(), MetricsConfig(resamples=0))
    assert found == whole


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (table().drop_columns("label"), "no column 'label'; it has user_id, item_id"),
        (with_column("prediction", np.full(600, np.nan)), "probabilities from 0 to 1, found nan"),
        (with_column("prediction", np.full(600, 1.5)), "found 1.5 and the like in 300 of 300 rows"),
        (with_column("prediction", [None] * 599 + [0.5]), "column 'prediction' has 299 nulls in 300 rows"),
        (with_column("prediction", ["0.5"] * 600), "column 'prediction' must hold numbers, it holds string"),
        (with_column("label", np.ones(600, dtype=np.int64)), "all 300 labels are 1"),
        (with_column("label", np.full(600, 3)), "labels: expected 0 or 1"),
        (with_column("history_length", np.full(600, -1)), "column 'history_length' must be at least 0; found -1"),
        (
            with_column("true_probability", np.full(600, np.nan)),
            "at least 0 and at most 1; found nan and the like in 300",
        ),
        (with_column("user_id", [None] * 600), "column 'user_id' has 300 nulls"),
        (with_column("split", ["train"] * 600), "no rows of split 'test'"),
        (table().slice(0, 0), "no rows"),
    ],
)
def test_bad_tables_are_one_line(save: Save, bad: pa.Table, message: str) -> None:
    path = save(bad)
    with pytest.raises(DataError) as caught:
        main(["--predictions", path])
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"", b"user_id,label\n1,0\n", b"truncated"])
def test_files_that_are_not_parquet(
    tmp_path: Path, save: Save, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(Path(save(table())).read_bytes()[:-100] if content == b"truncated" else content)
    monkeypatch.setattr(sys, "argv", ["evaluate", "--predictions", str(path)])
    with pytest.raises(SystemExit) as ended:
        run_job(main)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {path}: cannot be read as Parquet: ")
    assert said.count("\n") == 1


def test_a_missing_file_and_a_file_given_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        main(["--predictions", str(tmp_path / "none.parquet")])
    with pytest.raises(DataError, match="no Parquet file in this folder"):
        main(["--predictions", str(tmp_path)])
    with pytest.raises(SettingsError, match="given twice"):
        main(["--predictions", "a.parquet,a.parquet"])


def test_names_are_as_short_as_they_can_be() -> None:
    assert distinct_names(("x/a.parquet", "y/b.parquet")) == ["a", "b"]
    assert distinct_names(("x/a.parquet", "y/a.parquet")) == ["x", "y"]
    assert distinct_names(("a.parquet", "y/a.parquet")) == ["a", "y/a"]


def test_rows_without_keys_are_the_same_only_in_the_same_order() -> None:
    few = table().select(["user_id", "label", "prediction"])
    assert not isinstance(align(few, few, PredictionColumns()), str)
    assert align(few, few.take(np.arange(600)[::-1]), PredictionColumns()) == "they differ in 'user_id', 'label'"


def test_keys_that_cannot_be_sorted_are_told() -> None:
    keys = {"user_id": [1, 2], "item_id": [[1], [2]], "timestamp": [3, 4], "label": [0, 1], "prediction": [0.1, 0.9]}
    few = pa.table(keys)
    assert not isinstance(align(few, few, PredictionColumns()), str)
    told = align(few, few.take([1, 0]), PredictionColumns())
    assert isinstance(told, str)
    assert told.startswith("their keys cannot be sorted (")
