"""A prepared log as training sees it: what the manifest says is what a reading of the log would count."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import DataConfig, ImpressionFile, LabelColumn, NextEvent, SplitByTime, SplitByUser
from pipelines.training.data import LogData
from tests.support.nights import random_log


@pytest.mark.parametrize("split", [None, SplitByTime(), SplitByUser(validation=0.3, test=0.3)])
@pytest.mark.parametrize("kind", ["one negative", "three negatives", "label", "file"])
def test_the_number_of_impressions_is_what_reading_the_log_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, split: Any
) -> None:
    log = random_log(seed=1, events=300)
    log = log.append_column("clicked", pa.array([place % 3 == 0 for place in range(len(log))]))
    pq.write_table(log, tmp_path / "log.parquet")
    pq.write_table(log.slice(50, 250), tmp_path / "shown.parquet")
    impressions = {
        "one negative": NextEvent(),
        "three negatives": NextEvent(negatives=3),
        "label": LabelColumn(column="clicked"),
        "file": ImpressionFile(path=str(tmp_path / "shown.parquet"), column="clicked"),
    }[kind]
    config = DataConfig(log=str(tmp_path / "log.parquet"), impressions=impressions, events_per_bucket=100)
    if split is not None:
        config = config.model_copy(update={"split": split})
    data = LogData.prepare(config, tmp_path / "prepared", notify=lambda line: None)
    assert data.prepared.num_buckets == 3
    counted = [sum(int((users.split == split).sum()) for users in data.buckets()) for split in range(3)]
    assert all(counted)
    monkeypatch.setattr(data, "bucket", None)  # it is not read again
    assert [data.num_impressions(split) for split in range(3)] == counted
    assert sum(counted) == {"one negative": 600, "three negatives": 1200, "label": 300, "file": 250}[kind]
