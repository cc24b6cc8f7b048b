"""Evaluating a model on a log: the numbers of its own training, its own vocabulary, and mistakes in one line."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_store.errors import DataError
from pipelines.errors import ModelError, SettingsError
from pipelines.evaluate import main


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_numbers_are_those_of_training(trained: Path, log: Path, tmp_path: Path, split: str) -> None:
    argv = ["--model", str(trained / "model"), "--data.log", str(log), "--out", str(tmp_path), "--split", split]
    assert main([*argv, "--metrics.resamples", "0"]) == 0
    (found,) = json.loads((tmp_path / "metrics.json").read_text())["models"].values()
    expected = json.loads((trained / "metrics.json").read_text())[split]
    assert found["overall"]["rows"] == expected["impressions"]
    assert found["overall"]["auc"]["value"] == pytest.approx(expected["auc"], abs=1e-5)
    assert found["overall"]["logloss"]["value"] == pytest.approx(expected["logloss"], abs=1e-6)


def test_every_impression_and_a_log_of_other_users(trained: Path, log: Path, tmp_path: Path) -> None:
    few = pq.read_table(log).slice(0, 500)
    pq.write_table(few, tmp_path / "few.parquet")
    argv = ["--model", str(trained / "model"), "--data.log", str(tmp_path / "few.parquet"), "--split", "null"]
    assert main([*argv, "--out", str(tmp_path / "out"), "--metrics.resamples", "0"]) == 0
    predictions = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert len(predictions) == 500
    # A vocabulary fitted anew on these few events would give other predictions for the same impressions.
    whole = pq.read_table(trained / "predictions.parquet").to_pandas()
    keys = ["user_id", "item_id", "timestamp"]
    both = predictions.to_pandas().merge(whole, on=keys, suffixes=("", "_before"))
    users = few["user_id"].to_pylist()
    both = both[both["user_id"] != users[-1]]  # whose history is cut short
    assert len(both) > 50
    assert (both["prediction"] - both["prediction_before"]).abs().max() < 1e-6


def test_columns_of_other_names_are_read_with_the_models_features(trained: Path, log: Path, tmp_path: Path) -> None:
    table = pq.read_table(log).slice(0, 500)
    renamed = {"user_id": "uid", "timestamp": "ts"}
    pq.write_table(
        table.rename_columns([renamed.get(name, name) for name in table.column_names]), tmp_path / "r.parquet"
    )
    pq.write_table(table, tmp_path / "same.parquet")
    said = ["--data.columns.user", "uid", "--data.columns.time", "ts", "--data.columns.item", "item_id"]
    found = []
    for name, more in (("same", []), ("r", said)):
        out = tmp_path / name
        argv = ["--model", str(trained / "model"), "--data.log", str(tmp_path / f"{name}.parquet"), *more]
        assert main([*argv, "--split", "null", "--out", str(out), "--metrics.resamples", "0"]) == 0
        found.append(pq.read_table(out / "predictions.parquet")["prediction"])
    assert found[0].equals(found[1])


def test_mistakes_are_named(trained: Path, log: Path, tmp_path: Path) -> None:
    model, out = str(trained / "model"), str(tmp_path / "out")
    with pytest.raises(SettingsError, match=r"give both --model FOLDER and --data\.log PATH"):
        main(["--model", model, "--out", out])
    with pytest.raises(SettingsError, match="give either --predictions FILE, or --model"):
        main(["--model", model, "--data.log", str(log), "--predictions", "p.parquet", "--out", out])
    with pytest.raises(SettingsError, match="give either --predictions FILE, or --model"):
        main([])
    with pytest.raises(SettingsError, match="--model needs --out"):
        main(["--model", model, "--data.log", str(log)])
    with pytest.raises(ModelError, match=r"is not a model: it has no model\.safetensors"):
        main(["--model", str(tmp_path), "--data.log", str(log), "--out", out])
    with pytest.raises(ModelError, match="the model reads other features"):
        main(["--model", model, "--data.log", str(log), "--out", out, "--data.columns.event_features", "deciding_age"])
    with pytest.raises(SettingsError, match="split 'holdout': must be one of train, validation, test"):
        main(["--model", model, "--data.log", str(log), "--out", out, "--split", "holdout"])
    with pytest.raises(DataError, match="no impression falls in the test split; choose another"):
        main(["--model", model, "--data.log", str(log), "--out", out, "--data.split.test", "0"])
