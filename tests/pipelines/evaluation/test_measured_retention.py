"""Predictions get the ages of their own impressions, whatever order they are in; a probe's numbers are repeatable."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import Columns, DataConfig, LabelColumn, NextEvent, VocabularySizes
from pipelines.evaluation.retention import events_since_items, measure
from pipelines.evaluation.settings import RetentionConfig
from pipelines.training.batches import feature_space
from pipelines.training.data import TEST, LogData
from pipelines.training.fit import predict
from pipelines.training.settings import TrainingConfig
from rm_rec.evaluation.by_age import ages_in_segments
from rm_rec.model import ClickModel
from tests.support.fakes import model_config, scrambled

USERS, EVENTS = 12, 60


def made_log(seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    size = USERS * EVENTS
    return pa.table(
        {
            "user_id": [f"user-{number}" for number in np.repeat(np.arange(USERS), EVENTS)],
            "item_id": draw.integers(0, 25, size),
            "timestamp": np.concatenate([np.sort(draw.integers(0, 2 * EVENTS, EVENTS)) for _ in range(USERS)]),
            "label": draw.integers(0, 2, size),
            "age": draw.integers(0, 9, size),
        }
    )


@pytest.fixture(scope="module", params=["next_event", "label"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LogData:
    folder: Path = tmp_path_factory.mktemp(request.param)
    pq.write_table(made_log(), folder / "log.parquet")
    config = DataConfig(
        log=str(folder / "log.parquet"),
        columns=Columns(),
        impressions=NextEvent() if request.param == "next_event" else LabelColumn(carry=("age",)),
        vocabulary=VocabularySizes(min_count=1),
        events_per_bucket=200,
        duplicate_rows="keep",
    )
    return LogData.prepare(config, folder / "prepared", notify=lambda line: None)


@pytest.fixture(scope="module")
def model(data: LogData) -> ClickModel:
    features = feature_space(data.config.columns, data.config.impressions, data.vocabularies)
    return scrambled(ClickModel(model_config(segment_length=8), features)).eval()


@pytest.fixture(scope="module")
def predictions(data: LogData, model: ClickModel) -> pa.Table:
    return predict(model, data, TEST, TrainingConfig(batch_events=64))


def test_ages_are_of_the_rows_own_impressions(data: LogData, predictions: pa.Table) -> None:
    assert data.prepared.num_buckets > 1
    log = made_log().to_pylist()
    expected = []
    for row in predictions.to_pylist():
        events = [e for e in log if e["user_id"] == row["user_id"] and e["timestamp"] < row["timestamp"]]
        assert len(events) == row["history_length"]
        ago = [place for place, e in enumerate(reversed(events), start=1) if e["item_id"] == row["item_id"]]
        expected.append(ago[0] if ago else 0)
    assert events_since_items(data, predictions).tolist() == expected
    assert len(set(expected)) > 10
    # Users in another order, each one's rows as they were.
    other = predictions.take(pa.array(np.argsort(predictions["user_id"].to_numpy(), kind="stable")[::-1].copy()))
    other = other.take(pa.array(np.arange(len(other))[::-1].copy()))
    found = dict(zip(zip(*_keys(predictions), strict=True), expected, strict=True))
    again = events_since_items(data, other).tolist()
    assert [found[key] for key in zip(*_keys(other), strict=True)] == again


def _keys(table: pa.Table) -> list[list[object]]:
    return [table[name].to_pylist() for name in ("user_id", "timestamp", "item_id", "label")]


def test_what_is_measured_is_repeatable_and_counts_every_row(
    data: LogData, model: ClickModel, predictions: pa.Table
) -> None:
    config = RetentionConfig(probe_steps=3, age_column="age")
    found = [
        measure(config, 3, data, model, predictions, fingerprint="fingerprint")
        for config in (config, config, config.model_copy(update={"seed": 1}))
    ]
    assert found[0] == found[1]
    assert found[0].recollection != found[2].recollection
    ranking = found[0].ranking
    assert ranking.known_age == ("age" in predictions.column_names)
    assert ranking.never is not None
    rows = ranking.never.rows + sum(point.rows for point in ranking.by_age.values())
    assert rows == (len(predictions) if ranking.known_age else predictions["label"].to_numpy().sum())
    if ranking.known_age:
        ages = ages_in_segments(predictions["history_length"].to_numpy(), predictions["age"].to_numpy().astype(int), 8)
        assert ranking.by_age["0"].rows == (ages == 0).sum()
    recollection = found[0].recollection
    assert recollection is not None
    assert recollection.another_user is not None
    # Of every user, all fragments of 16 that the state before the last validation impression has folded.
    asked = 0
    for sequences in data.buckets():
        for user in range(len(sequences)):
            mine = slice(*sequences.impression_offsets[user : user + 2])
            seen = sequences.num_earlier[mine][sequences.split[mine] == 1]
            asked += seen.max() // 8 * 8 // 16 * 8 if len(seen) else 0
    assert recollection.memory.overall.rows == recollection.alone.overall.rows == asked


def test_a_history_too_short_for_a_fragment_has_no_recollection(tmp_path: Path) -> None:
    table = made_log().filter(pa.array(np.tile(np.arange(EVENTS) < 15, USERS)))
    pq.write_table(table, tmp_path / "log.parquet")
    config = DataConfig(log=str(tmp_path / "log.parquet"), vocabulary=VocabularySizes(min_count=1))
    data = LogData.prepare(config, tmp_path / "prepared", notify=lambda line: None)
    model = ClickModel(model_config(), feature_space(config.columns, config.impressions, data.vocabularies))
    predictions = predict(model, data, TEST, TrainingConfig())
    found = measure(RetentionConfig(), 0, data, model, predictions, fingerprint="fingerprint")
    assert found.recollection is None
    assert not found.ranking.known_age
