"""A small log, a model of it with scrambled weights, and its memories, for tests of what is served."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa

from feature_store.data_config import Columns, DataConfig, ImpressionFile, Impressions, LabelColumn
from pipelines.models.artifact import TrainedModel
from pipelines.registry.mlflow_model import served_types, write_mlflow_model
from tests.support import nights
from tests.support.fakes import model_config

COLUMNS = Columns(user="uid", item="sku", time="ts", item_features=("shop",))
SHOWN = LabelColumn(column="clicked", context_features=("device", "slot"), context_dense=("price",))
USERS, EVENTS = 8, 160


def small_log(*, text: bool = False, moments: bool = False, start: int = 0) -> pa.Table:
    """Events of eight users, 100 to 107, ten moments apart from one another; ids as text, times as timestamps."""
    draw = np.random.default_rng(start)
    user, item = np.arange(EVENTS) % USERS + 100, draw.integers(1, 12, EVENTS)
    time = pa.array(start + 10 * np.arange(EVENTS))
    return pa.table(
        {
            "uid": pa.array([f"u{number}" for number in user]) if text else pa.array(user),
            "sku": pa.array([f"i{number}" for number in item]) if text else pa.array(item),
            "ts": time.cast(pa.timestamp("us", tz="UTC")) if moments else time,
            "shop": item % 3,
            "clicked": draw.integers(0, 2, EVENTS),
            "device": np.array(["phone", "desk"])[draw.integers(0, 2, EVENTS)],
            "slot": draw.integers(0, 4, EVENTS),
            "price": draw.random(EVENTS),
        }
    )


@dataclass(frozen=True)
class Served:
    """A trained model's folder and the log it was trained on."""

    folder: Path
    data: DataConfig
    trained: TrainedModel

    @property
    def artifact(self) -> Path:
        """The folder that train_ctr would have written."""
        return self.folder / "model"

    @property
    def served(self) -> Path:
        """The MLflow model's folder."""
        return self.folder / "served"

    def write(self) -> "Served":
        """Write the MLflow model."""
        types = served_types(self.data, self.trained.card)
        write_mlflow_model(self.served, self.artifact, self.trained, types, mlflow.models.Model())
        return self

    def build(self, memories: str | Path, log: str | Path | None = None) -> str:
        """Build memories by the job, in this process."""
        nights.build(self.artifact, memories, log or self.data.log, self.folder / "building")
        return str(memories)


def train(
    folder: Path, log: pa.Table | None = None, shown: Impressions = SHOWN, seed: int = 0, **settings: object
) -> Served:
    """Write a model with scrambled weights and a log's vocabulary."""
    log = small_log() if log is None else log
    if isinstance(shown, ImpressionFile):
        nights.write(log.rename_columns({"uid": shown.user, "sku": shown.item, "ts": shown.time}), Path(shown.path))
    trained = nights.train(log, folder, shown, COLUMNS, model_config(**settings), seed)
    data = DataConfig(log=str(folder / "trained-on.parquet"), columns=COLUMNS, impressions=shown)
    return Served(folder, data, trained)
