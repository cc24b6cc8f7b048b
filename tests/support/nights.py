"""Logs cut into nights, small models of them, and the stores that build_memory makes, for tests."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.data_config import Columns, DataConfig, Impressions, LabelColumn, NextEvent
from feature_store.logs.preparation import prepare
from feature_store.stores import Journal, Memories, MemoryStore, open_store
from feature_store.vocabulary.vocabularies import Vocabularies
from pipelines import build_memory
from pipelines.models.artifact import TrainedModel, save_model
from pipelines.training.batches import feature_space
from rm_rec.config import ModelConfig
from rm_rec.model import ClickModel
from tests.support.fakes import model_config, scrambled

COLUMNS = Columns(event_features=("action",), item_features=("category",))
LABELLED = LabelColumn(column="clicked", context_features=("position",), context_dense=("price", "age"))


def silent(line: str) -> None:
    """Report to nobody."""


def random_log(
    seed: int = 0, users: int = 12, events: int = 240, items: int = 15, last: int = 0, text: bool = False
) -> pa.Table:
    """Events in time order, times below `last` (0: no two alike): some users act often and some from late on."""
    draw = np.random.default_rng(seed)
    moment = np.sort(draw.integers(0, last, events)) if last else 10 * np.arange(events)
    newcomer = np.linspace(0, 0.9, users)  # of the log, before a user's first event
    at = np.arange(events) / events
    user = np.array([draw.choice(np.flatnonzero(newcomer <= now)) for now in at], np.int64)
    user = np.minimum(user, draw.integers(0, users, events))
    item = draw.integers(0, items, events)
    ids = pa.array([f"user {number}" for number in user]) if text else pa.array(user + 100)
    return pa.table(
        {
            "user_id": ids,
            "item_id": 300 + item,
            "timestamp": moment,
            "category": item % 4,
            "action": pa.array(np.array(["view", "buy", "save"])[draw.integers(0, 3, events)]),
            "clicked": draw.integers(0, 2, events),
            "position": draw.integers(0, 5, events),
            "price": draw.random(events).astype(np.float32),
            "age": draw.integers(20, 60, events),
        }
    )


def write(table: pa.Table, path: Path) -> Path:
    """Write a Parquet file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def cut(log: pa.Table, moments: Iterable[int]) -> list[pa.Table]:
    """Cut a log into nights: each has the events from one moment to before the next."""
    bounds = [-1, *sorted(moments), int(pc.max(log["timestamp"]).as_py()) + 1]
    time = log["timestamp"]
    return [
        log.filter(pc.and_(pc.greater_equal(time, first), pc.less(time, last)))
        for first, last in itertools.pairwise(bounds)
    ]


def write_nights(nights: Iterable[pa.Table], folder: Path) -> list[Path]:
    """Write nights that have events, in the order of their names."""
    return [write(night, folder / f"night-{number:02d}.parquet") for number, night in enumerate(nights) if len(night)]


def train(
    log: pa.Table,
    folder: Path,
    impressions: Impressions | None = None,
    columns: Columns = COLUMNS,
    config: ModelConfig | None = None,
    seed: int = 0,
) -> TrainedModel:
    """Write a model with scrambled weights and a log's vocabulary to `folder`/model."""
    where = write(log, folder / "trained-on.parquet")
    data = DataConfig(log=str(where), columns=columns, impressions=impressions or NextEvent())
    vocabularies = Vocabularies.fit(prepare(data, folder / "prepared", notify=silent), data)
    model = ClickModel(config or model_config(), feature_space(columns, data.impressions, vocabularies))
    return save_model(folder / "model", scrambled(model, seed).eval(), vocabularies, columns, data.impressions)


def build(model: Path, memories: str | Path, log: Path | str, out: Path, *more: object) -> None:
    """Build memories by the job, in this process, in four buckets of users."""
    argv = ["--model", model, "--memories", memories, "--log", log, "--out", out, "--num_buckets", 4, *more]
    assert build_memory.main([*map(str, argv)]) == 0


def journal(memories: str | Path) -> Journal:
    """Read what a store has consumed."""
    with open_store(str(memories)) as store:
        return store.journal()


def contents(memories: str | Path) -> dict[Any, dict[str, np.ndarray]]:
    """Read all that a store holds: user -> name -> value, without checksums."""
    with open_store(str(memories)) as store:
        return of_store(store)


def of_store(store: MemoryStore) -> dict[Any, dict[str, np.ndarray]]:
    """Read all that an open store holds."""
    memories = Memories.concat([Memories.none(store.facts.memory), *store.read_all()])
    names = [name for name in memories.records.dtype.names or () if name != "checksum"]
    rows = zip(memories.users.to_pylist(), memories.records, strict=True)
    return {user: {name: np.array(row[name]) for name in names} for user, row in rows}


def assert_same(ours: dict[Any, dict[str, np.ndarray]], theirs: dict[Any, dict[str, np.ndarray]], atol: float) -> None:
    """Compare what two stores hold: counts, times and windows exactly, states within a tolerance."""
    assert ours.keys() == theirs.keys()
    for user, record in ours.items():
        for name, value in record.items():
            if name.startswith("state."):
                np.testing.assert_allclose(
                    value.astype(np.float64), theirs[user][name].astype(np.float64), rtol=1e-6, atol=atol, err_msg=name
                )
            else:
                np.testing.assert_array_equal(value, theirs[user][name], err_msg=f"{name} of {user}")
