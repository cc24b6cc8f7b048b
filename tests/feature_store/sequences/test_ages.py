"""How long ago the user met an impression's item equals walking back through the log row by row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_store.data_config import Columns, DataConfig, ImpressionFile, LabelColumn, NextEvent, VocabularySizes
from feature_store.logs.splits import TEST, VALIDATION
from feature_store.sequences.ages import events_since_item
from tests.feature_store.small_logs import random_log


def walked_back(log: pa.Table, user: str, time: int, item: str) -> int:
    """Count a user's events before a moment, latest first, up to the first one on the item; 0 if there is none."""
    events = [row for row in log.to_pylist() if str(row["user_id"]) == user and row["timestamp"] < time]
    events.sort(key=lambda row: row["timestamp"])  # of one moment, the row that the log has last is the latest
    for ago, event in enumerate(events[::-1], start=1):
        if str(event["item_id"]) == item:
            return ago
    return 0


@pytest.mark.parametrize("kind", ["next_event", "label", "file"])
@pytest.mark.parametrize("text", [False, True], ids=["integers", "text"])
def test_ages_equal_walking_back(
    kind: str, text: bool, write: Callable[..., str], load: Callable[..., tuple[Any, Any, list[Any]]]
) -> None:
    log = random_log(users=9, events=30, items=40)
    if text:
        for name in ("user_id", "item_id"):
            log = log.set_column(log.column_names.index(name), name, log[name].cast(pa.string()))
    shown = log.take(pa.array(np.random.default_rng(3).permutation(len(log))[:150]))
    impressions = {
        "next_event": NextEvent(negatives=2),
        "label": LabelColumn(column="clicked"),
        "file": ImpressionFile(path=write(shown, "shown.parquet"), column="clicked"),
    }[kind]
    config = DataConfig(
        log=write(log),
        columns=Columns(item_features=("category",)),
        impressions=impressions,
        vocabulary=VocabularySizes(min_count=12, oov_rows=1),  # most items share one row
        events_per_bucket=100,
        duplicate_rows="keep",
    )
    prepared, _, buckets = load(config)
    assert len(buckets) > 1
    met = 0
    for bucket, sequences in enumerate(buckets):
        chosen = np.flatnonzero((sequences.split == TEST) | (sequences.split == VALIDATION))
        owner = np.repeat(np.arange(len(sequences)), np.diff(sequences.impression_offsets))
        expected = [
            walked_back(
                log,
                str(sequences.users[int(owner[row])]),
                int(sequences.impression_time[row]),
                str(sequences.item[int(row)]),
            )
            for row in chosen
        ]
        assert events_since_item(prepared, bucket, sequences, chosen).tolist() == expected
        met += sum(age > 0 for age in expected)
        assert 0 in expected or kind != "next_event"
    assert met > 5
