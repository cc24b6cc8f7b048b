"""Scoring as a user does: a model, memories up to a moment, candidates, and what the model itself predicts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.data_config import DataConfig, Impressions, LabelColumn
from pipelines import score_batch
from pipelines.models.artifact import TrainedModel
from pipelines.training.data import LogData
from pipelines.training.fit import predict
from pipelines.training.settings import TrainingConfig
from tests.support.fakes import model_config
from tests.support.nights import COLUMNS, LABELLED, build, random_log, silent, train, write

MOMENT = 1500
CONTEXT = ("position", "price", "age")


# Without ages, whose size would carry all clicks of drawn weights to certainty, whatever a memory says.
PRICED = LABELLED.model_copy(update={"context_dense": ("price",)})


@dataclass(frozen=True)
class Scored:
    """A model, memories of a log up to a moment, and its users' first impressions from then on with predictions."""

    model: Path
    memories: Path
    candidates: pa.Table
    expected: np.ndarray


def predictions(trained: TrainedModel, log: Path, folder: Path, impressions: Impressions) -> pa.Table:
    """What the model says of every impression of a log that it reads as a whole."""
    config = DataConfig(log=str(log), columns=COLUMNS, impressions=impressions)
    data = LogData.prepare(config, folder, silent)
    data = LogData(config, data.prepared, trained.vocabularies)
    parts = [predict(trained.model, data, split, TrainingConfig()) for split in range(3) if data.num_impressions(split)]
    return pa.concat_tables(parts).drop_columns(["split"])


def first_from(moment: int, table: pa.Table) -> pa.Table:
    """Each user's impressions of the first time that is not before a moment."""
    later = table.filter(pc.greater_equal(table["timestamp"], moment))
    first = later.group_by("user_id").aggregate([("timestamp", "min")])
    joined = later.join(first, "user_id")
    return joined.filter(pc.equal(joined["timestamp"], joined["timestamp_min"])).drop_columns(["timestamp_min"])


def before(moment: int, log: pa.Table) -> pa.Table:
    return log.filter(pc.less(log["timestamp"], moment))


def scored_by(folder: Path, impressions: Impressions, machine: str = "associative") -> Scored:
    log = random_log(seed=3, users=20, events=300)
    trained = train(before(2000, log), folder, impressions, config=model_config(machine=machine))  # some items are new
    whole = write(log, folder / "whole.parquet")
    found = first_from(MOMENT, predictions(trained, whole, folder / "whole-prepared", impressions))
    if isinstance(impressions, LabelColumn):  # each event has a time of its own, which finds its context
        found = found.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    early = write(before(MOMENT, log), folder / "early.parquet")
    build(folder / "model", folder / "memories", early, folder / "out", "--dtype", "float32")
    for path in (whole, early, folder / "trained-on.parquet"):
        path.unlink()
    for name in ("prepared", "whole-prepared", "out"):
        shutil.rmtree(folder / name)
    table = found.drop_columns(["label", "history_length", "prediction"])
    return Scored(folder / "model", folder / "memories", table, found["prediction"].to_numpy())


def arguments(scored: Scored, candidates: Path | str, out: Path, *more: object) -> list[str]:
    argv = ["--model", scored.model, "--memories", scored.memories, "--candidates", candidates, "--out", out]
    return [*map(str, [*argv, "--threads", 1, *more])]


def score(scored: Scored, candidates: Path | str, out: Path, *more: object) -> np.ndarray:
    assert score_batch.main(arguments(scored, candidates, out, *more)) == 0
    return pq.read_table(out)["prediction"].to_numpy()
