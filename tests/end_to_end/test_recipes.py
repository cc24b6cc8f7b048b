"""Every recipe trains: on its real log where RM_REC_DATA names a folder of them, and on a stand-in everywhere."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import LabelColumn
from pipelines.cli import load_settings
from pipelines.evaluate import main as evaluate
from pipelines.train_ctr import TrainCtr
from tests.support.fakes import KINDS
from tests.support.small_runs import RECIPES, Ended, run_forked

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
MODELS = {  # what each one names of machine, reader and window
    "din_50": ("none", "attention", "last_events"),
    "din_full": ("none", "attention", "whole_history"),
    "mean_pool": ("mean_pool", "attention", "segments"),
    "memn2n": ("ring_buffer", "multi_hop", "segments"),
    "memnn": ("ring_buffer", "supporting_facts", "segments"),
    "tommy": ("ring_buffer", "hierarchical", "segments"),
    "window_only": ("none", "attention", "segments"),
}
REAL = [name for name in NAMES if name not in ("quickstart", "next_event", "labelled")]
USERS = 25
SHORT = ("--training.epochs", "1", "--data.vocabulary.min_count", "1")


def settings_of(*arguments: str) -> TrainCtr:
    return load_settings(TrainCtr, arguments, prog="train_ctr", description="")


def config(name: str) -> tuple[str, str]:
    return "--config", str(RECIPES / f"{name}.yaml")


def stand_in(settings: TrainCtr) -> pa.Table:
    """Make a log with the columns that a recipe names: a few users who come back to few items."""
    draw = np.random.default_rng(0)
    size, data = USERS * 40, settings.data
    item = draw.integers(0, 10, size) * 2 + np.arange(size) % 2  # the two events of a moment differ
    columns: dict[str, Any] = {
        data.columns.user: np.repeat(np.arange(USERS), 40),
        data.columns.item: item,
        data.columns.time: np.tile(np.arange(40) // 2, USERS) + 1_000_000,
    }
    columns |= dict.fromkeys(data.columns.item_features, item % 4)
    columns |= {name: draw.integers(0, 3, size) for name in data.columns.event_features}
    if isinstance(data.impressions, LabelColumn):
        is_rating = data.impressions.threshold is not None
        columns[data.impressions.column] = draw.integers(1, 6, size) if is_rating else draw.integers(0, 2, size)
        columns |= {name: draw.random(size) for name in data.impressions.carry}
    return pa.table(columns)


def train(folder: Path, quickstart: Callable[..., list[str]], name: str, log: Path, *more: str) -> dict[str, Any]:
    """Run a recipe for an epoch on a small model; return its metrics."""
    argv = quickstart(folder / "run", "--data.log", str(log), *SHORT, *more, recipes=(f"{name}.yaml",))
    ended: Ended = run_forked(folder, "pipelines.train_ctr", *argv)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_parses_and_names_its_log(name: str) -> None:
    settings = settings_of(*config(name))
    assert settings.data.log.endswith(".parquet")
    if name in REAL:
        assert settings.data.log == f"{name}.parquet"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_applies_after_any_recipe(model: str) -> None:
    for name in NAMES:
        settings = settings_of(*config(name), *config(f"models/{model}"))
        assert settings.data == settings_of(*config(name)).data
    parts = settings.model.machine, settings.model.reader, settings.model.window
    assert tuple(part.kind for part in parts) == MODELS[model]


def test_every_model_is_known() -> None:
    assert {path.stem for path in (RECIPES / "models").glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_any_machine_is_chosen_by_its_kind_after_any_recipe(kind: str) -> None:
    for name in NAMES:
        assert settings_of(*config(name), "--model.machine.kind", kind).model.machine.kind == kind


def real_log(name: str) -> Path | None:
    """Find a recipe's real log."""
    data = os.environ.get("RM_REC_DATA")
    path = Path(data) / f"{name}.parquet" if data and name in REAL else None
    return path if path is not None and path.exists() else None


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_on_a_stand_in(name: str, tmp_path: Path, quickstart: Callable[..., list[str]]) -> None:
    if real_log(name) is not None:
        pytest.skip("its real log is there, and the next test trains on that")
    settings = settings_of(*config(name))
    pq.write_table(stand_in(settings), tmp_path / "log.parquet")
    metrics = train(tmp_path, quickstart, name, tmp_path / "log.parquet")
    per_event = 1 if isinstance(settings.data.impressions, LabelColumn) else 2
    assert metrics["test"]["impressions"] >= USERS * per_event
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet")
    if isinstance(settings.data.impressions, LabelColumn):
        assert set(settings.data.impressions.carry) <= set(predictions.column_names)
    # Two events share each timestamp: neither is in the other's history.
    assert pc.all(pc.equal(pc.bit_wise_and(predictions["history_length"], 1), 0)).as_py()


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_trains_on_its_real_log(name: str, tmp_path: Path, quickstart: Callable[..., list[str]]) -> None:
    path = real_log(name)
    if path is None:
        pytest.skip(f"RM_REC_DATA names no folder with {name}.parquet; a stand-in is trained on")
    table = pq.read_table(path)
    counts = table["user_id"].value_counts().to_pylist()
    users = [row["values"] for row in counts if 60 <= row["counts"] <= 300][:USERS]
    few = table.filter(pc.is_in(table["user_id"], pa.array(users, table["user_id"].type)))
    pq.write_table(few, tmp_path / "log.parquet")
    metrics = train(tmp_path, quickstart, name, tmp_path / "log.parquet")
    assert metrics["test"]["impressions"] >= 5 * USERS
    assert 0.2 < metrics["test"]["auc"] < 1.0
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert set(predictions["user_id"].to_pylist()) == set(users)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_trains(model: str, tmp_path: Path, log: Path, quickstart: Callable[..., list[str]]) -> None:
    argv = without_slots(quickstart(tmp_path / "run", recipes=("quickstart.yaml", f"models/{model}.yaml")))
    ended = run_forked(tmp_path, "pipelines.train_ctr", *argv, "--training.epochs", "1")
    assert ended.returncode == 0, ended.stderr
    assert evaluate(["--predictions", str(tmp_path / "run" / "predictions.parquet"), "--metrics.resamples", "0"]) == 0


def without_slots(argv: list[str]) -> list[str]:
    """Leave out the sizes of slots, which only some machines have."""
    for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
        place = argv.index(option)
        del argv[place : place + 2]
    return argv


def foreign_log(path: Path) -> None:
    """Write a log as another team names and types it: text ids, Arrow timestamps, a label of its own."""
    table = stand_in(settings_of(*config("labelled")))
    seconds = pc.multiply(table["timestamp"], 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(
        pa.table(
            {
                "uid": pc.binary_join_element_wise("user", table["user_id"].cast(pa.string()), "-"),
                "sku": pc.binary_join_element_wise("sku", table["item_id"].cast(pa.string()), "-"),
                "at": seconds,
                "bought": pc.equal(table["label"], 1),
                "shop": pc.cast(pc.bit_wise_and(table["item_id"], 1), pa.string()).dictionary_encode(),
            }
        ),
        path,
    )


@pytest.mark.parametrize("name", ["next_event", "labelled"])
def test_a_log_with_other_names_and_types(name: str, tmp_path: Path, quickstart: Callable[..., list[str]]) -> None:
    foreign_log(tmp_path / "log.parquet")
    columns = ("--data.columns.user", "uid", "--data.columns.item", "sku", "--data.columns.time", "at")
    label = ("--data.impressions.column", "bought", "--data.columns.event_features", "bought")
    more = (*columns, "--data.columns.item_features", "shop", *(label if name == "labelled" else ()))
    metrics = train(tmp_path, quickstart, name, tmp_path / "log.parquet", *more)
    predictions = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert predictions["user_id"][0].as_py().startswith("user-")
    assert predictions["item_id"][0].as_py().startswith("sku-")
    assert pc.min(predictions["timestamp"]).as_py() > 1_000_000_000_000  # microseconds
    assert metrics["test"]["auc"] is not None
