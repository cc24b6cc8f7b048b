"""Timelines: true to the log, found once a bucket, kept beside it; prepared logs of other formats are made anew."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_store.data_config import (
    Columns,
    DataConfig,
    ImpressionFile,
    LabelColumn,
    NextEvent,
    SplitByPosition,
    SplitByTime,
    SplitByUser,
)
from feature_store.errors import DataError
from feature_store.logs import timelines
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.preparation import log_fingerprint, prepare
from feature_store.logs.prepared_log import FORMAT_VERSION, MANIFEST, PreparedLog, read_manifest
from feature_store.logs.splits import assign_splits
from feature_store.logs.timelines import read_event_split, read_impression_split, read_timeline
from tests.feature_store.small_logs import random_log, silent

Write = Callable[..., str]
KINDS = ["next_event", "label", "file"]
SPLITS = [SplitByPosition(validation=0.2, test=0.2), SplitByTime(), SplitByUser(validation=0.3, test=0.3)]


@pytest.fixture
def config(write: Write) -> Callable[..., DataConfig]:
    def of_kind(kind: str, *, text: bool = False, **changed: Any) -> DataConfig:
        log, shown = random_log(users=9), random_log(seed=3, users=14)  # of whom five have no events
        if text:
            log, shown = (
                table.set_column(0, "user_id", pa.array([f"user {user}" for user in table["user_id"].to_pylist()]))
                for table in (log, shown)
            )
        file = ImpressionFile(path=write(shown, "shown.parquet"), column="clicked") if kind == "file" else None
        impressions = {"next_event": NextEvent(), "label": LabelColumn(column="clicked"), "file": file}[kind]
        given = {"columns": Columns(event_features=("action",)), "duplicate_rows": "keep", "events_per_bucket": 150}
        return DataConfig(**{"log": write(log), "impressions": impressions} | given | changed)

    return of_kind


@pytest.mark.parametrize(
    ("split", "text"),
    [(split, False) for split in SPLITS] + [(SPLITS[0], True)],
    ids=["position", "time", "user", "texts"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_timeline_says_what_the_rows_say(
    config: Callable[..., DataConfig], tmp_path: Path, kind: str, split: Any, text: bool
) -> None:
    prepared = prepare(config(kind, split=split, text=text), tmp_path / "out", notify=silent)
    assert prepared.num_buckets == 3
    users = impressions = 0
    for bucket in prepared.buckets():
        timeline = read_timeline(prepared, bucket)
        events = prepared.events(bucket).to_pylist()
        shown = prepared.impressions(bucket).to_pylist()
        assert timeline.users.to_pylist() == sorted({row["user"] for row in [*events, *shown]})
        assert timeline.users.type == (pa.string() if text else pa.int64())
        for rows, offsets, time in (
            (events, timeline.event_offsets, timeline.event_time),
            (shown, timeline.impression_offsets, timeline.impression_time),
        ):
            owner = np.repeat(timeline.users.to_pylist(), np.diff(offsets)).tolist()
            assert owner == [row["user"] for row in rows]
            assert time.tolist() == [row["time"] for row in rows]
        times = {user: [row["time"] for row in events if row["user"] == user] for user in timeline.users.to_pylist()}

        def earlier(row: dict[str, Any], times: dict[Any, list[int]] = times) -> int:
            return sum(time < row["time"] for time in times[row["user"]])

        assert timeline.num_earlier.tolist() == list(map(earlier, shown))
        for rows, offsets, time, found in (
            (events, timeline.event_offsets, timeline.event_time, timeline.event_split),
            (shown, timeline.impression_offsets, timeline.impression_time, timeline.impression_split),
        ):
            expected = assign_splits(
                split,
                users=timeline.users,
                offsets=offsets,
                time=time,
                num_earlier=np.array([earlier(row) for row in rows], np.int64),
                num_events=np.diff(timeline.event_offsets),
                moments=prepared.manifest.moments,
            )
            assert found.tolist() == expected.tolist()
        assert read_event_split(prepared, bucket).tolist() == timeline.event_split.tolist()
        assert read_impression_split(prepared, bucket).tolist() == timeline.impression_split.tolist()
        assert (timeline.label is None) == (kind == "next_event")
        if timeline.label is not None:
            assert timeline.label.tolist() == [row["label"] for row in shown]
        users, impressions = users + len(timeline.users), impressions + len(shown)
    assert users == prepared.manifest.users == (14 if kind == "file" else 9)
    assert impressions == sum(map(sum, prepared.manifest.split_counts))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_found_once_a_bucket(
    config: Callable[..., DataConfig],
    load: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    found, real = [], timelines._compute_timeline

    def counted(prepared: PreparedLog, bucket: int) -> Any:
        found.append(bucket)
        return real(prepared, bucket)

    monkeypatch.setattr(timelines, "_compute_timeline", counted)
    load(config(kind))  # prepares, counts the vocabularies, loads every bucket
    assert found == [0, 1, 2]
    load(config(kind))
    assert found == [0, 1, 2]


def test_another_log_leaves_no_table_of_the_first(config: Callable[..., DataConfig], tmp_path: Path) -> None:
    prepare(config("file"), tmp_path, notify=silent)
    assert (tmp_path / "event-splits").is_dir()
    prepared = prepare(config("label", events_per_bucket=1_000), tmp_path, notify=silent)
    tables = ["events", "impression-splits", "timeline-users"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == tables
    for table in tables:
        assert [file.name for file in (tmp_path / table).iterdir()] == ["bucket-000.parquet"]
    assert len(read_timeline(prepared, 0).users) == 9


def test_a_prepared_log_of_version_0_1_is_made_anew(config: Callable[..., DataConfig], tmp_path: Path) -> None:
    settings = config("label")
    prepared = prepare(settings, tmp_path, notify=silent)
    expected = read_timeline(prepared, 0)
    _as_version_0_1(tmp_path)
    with pytest.raises(DataError, match=r"a prepared log of format 1, this version reads 2; prepare the log again"):
        PreparedLog.open(tmp_path)
    assert read_manifest(tmp_path).fingerprint == log_fingerprint(settings)  # what it was made from is known
    said: list[str] = []
    again = prepare(settings, tmp_path, notify=said.append)
    assert "format 1, this version reads 2" in said[0]
    assert again.manifest.fingerprint == prepared.manifest.fingerprint
    assert again.manifest.format_version == PreparedLog.open(tmp_path).manifest.format_version == FORMAT_VERSION
    np.testing.assert_array_equal(read_timeline(again, 0).num_earlier, expected.num_earlier)
    said.clear()
    prepare(settings, tmp_path, notify=said.append)
    assert "nothing to do" in said[0]


def _as_version_0_1(folder: Path) -> None:
    """Take away what version 0.1 did not write."""
    for name in ("timeline-users", "impression-splits"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["format_version"] = 1
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_the_fingerprint_of_a_log_outlives_the_format_of_prepared_logs(config: Callable[..., DataConfig]) -> None:
    """Runs, checkpoints and the registry name a log's content by it: it is what version 0.1 made of log and config."""
    settings = config("label")
    what = settings.model_dump_json(exclude={"log": True, "memory_limit_mb": True, "impressions": {"path"}})
    content = ParquetSource.open(settings.log).content_hash()
    assert log_fingerprint(settings) == hashlib.sha256(f"1\0{what}{content}".encode()).hexdigest()
    assert FORMAT_VERSION > 1
