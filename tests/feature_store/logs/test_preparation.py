import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import Columns, DataConfig, ImpressionFile, LabelColumn, NextEvent, SplitByUser
from feature_store.errors import DataError
from feature_store.logs import bucketing, preparation
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.preparation import log_fingerprint, prepare
from feature_store.logs.prepared_log import PreparedLog
from feature_store.stores import bucket_of
from tests.feature_store.small_logs import assert_equal, by_user, random_log, silent

Write = Callable[..., str]
COLUMNS = Columns(event_features=("action",), item_features=("category",))
LABEL = LabelColumn(column="clicked", context_features=("position",), context_dense=("price",), carry=("price",))


def config_of(path: str, **changed: Any) -> DataConfig:
    return DataConfig(**{"log": path, "columns": COLUMNS, "impressions": LABEL, "duplicate_rows": "keep"} | changed)


def test_events_are_whole_users_sorted_by_time_then_row(tmp_path: Path, write: Write) -> None:
    log = random_log()
    prepared = prepare(config_of(write(log), events_per_bucket=100), tmp_path / "out", notify=silent)
    assert prepared.num_buckets == 5
    parts = [prepared.events(bucket) for bucket in prepared.buckets()]
    owners = [set(part["user"].to_pylist()) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 12  # no user is in two buckets
    for part in parts:
        keys = list(zip(*(part[name].to_pylist() for name in ("user", "time", "row")), strict=True))
        assert keys == sorted(keys)
    everything = pa.concat_tables(parts).sort_by("row")
    assert everything["row"].to_pylist() == list(range(log.num_rows))
    for ours, theirs in (("user", "user_id"), ("time", "timestamp"), ("feature:action", "action")):
        assert everything[ours].to_pylist() == log[theirs].to_pylist()
    np.testing.assert_array_equal(everything["dense:price"].to_numpy(), log["price"].to_numpy())


@pytest.mark.parametrize("memory", [2, 10**10], ids=["in memory", "in files"])
def test_what_is_prepared_is_what_a_loop_makes(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(bucketing, "_STAGED_PART", memory)
    log = random_log(events=60)
    text = log["user_id"].cast(pa.string())
    log = pa.concat_tables([log, log.take(pa.array([5, 700, 5])), log.slice(9, 1)]).drop_columns(["position", "price"])
    log = log.set_column(0, "user_id", pa.concat_arrays([*text.chunks, *text.take(pa.array([5, 700, 5, 9])).chunks]))
    write(log.slice(0, 333), "log/a.parquet")
    write(log.slice(333), "log/b.parquet")
    read = {"events_per_bucket": 100, "duplicate_rows": "set_aside"}
    config = config_of(str(tmp_path / "log"), impressions=NextEvent(), **read)
    prepared = prepare(config, tmp_path / "out", notify=silent)
    rows = [tuple(row.values()) for row in log.drop_columns(["clicked"]).to_pylist()]
    numbered = [(*row, number) for number, row in enumerate(rows) if row not in rows[:number]]
    for bucket in prepared.buckets():
        users = [row for row in numbered if bucket_of(pa.array([row[0]]), prepared.num_buckets)[0] == bucket]
        expected = sorted(users, key=lambda row: (row[0], row[2], row[-1]))
        columns = ["user", "item", "time", "feature:category", "feature:action", "row"]
        found = [tuple(row.values()) for row in prepared.events(bucket, columns).to_pylist()]
        assert found == expected
    repeated = [number for number, row in enumerate(rows) if row in rows[:number]]
    assert len(repeated) >= 4
    assert prepared.manifest.rejects == {"events: repeats an earlier row": len(repeated)}
    rejected = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    names = [(row["rejected_file"], row["rejected_row"]) for row in rejected]
    assert names == [("a.parquet", row) if row < 333 else ("b.parquet", row - 333) for row in repeated]


@pytest.mark.parametrize("text", [False, True])
def test_without_timelines_all_but_them_is_equal(tmp_path: Path, write: Write, text: bool) -> None:
    log = random_log()
    if text:
        log = log.set_column(0, "user_id", log["user_id"].cast(pa.string()))
    config = config_of(write(log), events_per_bucket=100)
    whole = prepare(config, tmp_path / "whole", notify=silent)
    said: list[str] = []
    without = prepare(config, tmp_path / "out", notify=said.append, for_training=False, timelines=False)
    assert all(without.events(bucket).equals(whole.events(bucket)) for bucket in whole.buckets())
    assert (without.manifest.users, without.manifest.split_counts) == (whole.manifest.users, ()) == (12, ())
    assert not (tmp_path / "out" / "timeline-users").exists()
    prepare(config, tmp_path / "out", notify=said.append)  # what lacks timelines is not taken for what has them
    assert any("preparing again" in line for line in said)
    assert (tmp_path / "out" / "timeline-users").exists()


def test_a_fingerprint_is_known_without_preparing(tmp_path: Path, write: Write) -> None:
    log = random_log()
    config = config_of(write(log), impressions=ImpressionFile(path=write(log, "shown.parquet"), column="clicked"))
    prepared = prepare(config, tmp_path / "out", notify=silent)
    assert log_fingerprint(config) == prepared.manifest.fingerprint
    moved = config.model_copy(update={"log": write(log, "elsewhere/log.parquet")})
    assert log_fingerprint(moved) == log_fingerprint(config)
    write(log.slice(1), "shown.parquet")
    assert log_fingerprint(config) != prepared.manifest.fingerprint


def test_many_files_are_one_file(tmp_path: Path, write: Write, load: Callable[..., Any]) -> None:
    log = random_log()
    whole = config_of(write(log))
    for number, start in enumerate(range(0, log.num_rows, 77)):
        write(log.slice(start, 77), f"parts/deep/part-{number:03d}.parquet")
    write(log, "parts/_temporary/part-0.parquet")  # what Spark leaves behind is no part of the log
    expected = by_user(load(whole, "whole")[2])
    for name, path in (("folder", tmp_path / "parts"), ("glob", tmp_path / "parts" / "*" / "part-[0-9]*.parquet")):
        if name == "glob":
            (tmp_path / "parts" / "_temporary" / "part-0.parquet").unlink()
        found = by_user(load(config_of(str(path), events_per_bucket=100), name)[2])
        assert found.keys() == expected.keys()
        for user, sequences in found.items():
            assert_equal(sequences, expected[user])


def test_hive_partitions_are_columns(tmp_path: Path, write: Write) -> None:
    log = random_log()
    for action in ("view", "buy", "save"):
        rows = log.filter(pc.equal(log["action"], action)).drop_columns(["action"])
        write(rows, f"log/action={action}/a.parquet")
    prepared = prepare(config_of(str(tmp_path / "log")), tmp_path / "out", notify=silent)
    counts = prepared.events(0)["feature:action"].value_counts().to_pylist()
    expected = log["action"].value_counts().to_pylist()
    assert sorted(map(str, counts)) == sorted(map(str, expected))


@pytest.mark.parametrize("impressions", [LABEL, NextEvent(negatives=2)])
def test_string_ids_equal_integer_ids(write: Write, load: Callable[..., Any], impressions: Any) -> None:
    log = random_log()
    text = log
    for place, name in ((0, "user_id"), (1, "item_id")):
        text = text.set_column(place, name, log[name].cast(pa.string()))
    split = SplitByUser(validation=0.2, test=0.2)
    same = {"impressions": impressions, "split": split, "events_per_bucket": 100}
    integers = load(config_of(write(log, "int.parquet"), **same), "int")[2]
    strings = load(config_of(write(text, "text.parquet"), **same), "text")[2]
    assert [part.users.cast(pa.string()) for part in integers] == [part.users for part in strings]
    for ours, theirs in zip(integers, strings, strict=True):
        assert_equal(ours, theirs)
        assert ours.item.cast(pa.string()) == theirs.item


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_timestamps_are_microseconds(tmp_path: Path, write: Write, unit: str, zone: str | None) -> None:
    moment = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    micros = int(moment.timestamp()) * 1_000_000
    times = pa.array([micros, micros + 3_000_000], pa.timestamp("us", "UTC" if zone else None))
    log = pa.table({"user_id": [1, 1], "item_id": [2, 3], "timestamp": times.cast(pa.timestamp(unit, zone))})
    prepared = prepare(DataConfig(log=write(log)), tmp_path / "out", notify=silent)
    assert prepared.events(0)["time"].to_pylist() == [micros, micros + 3_000_000]


def test_categories_of_any_type_and_null(tmp_path: Path, write: Write) -> None:
    columns = {
        "i": pa.array([1, None, 3], pa.int32()),
        "s": pa.array(["a", None, ""]),
        "f": pa.array([1.0, 2.5, None]),
        "b": pa.array([True, None, False]),
        "d": pa.array(["x", None, "y"]).dictionary_encode(),
        "n": pa.nulls(3),
    }
    log = pa.table({"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": [1.0, 2.0, 3.0], **columns})
    config = DataConfig(log=write(log), columns=Columns(event_features=tuple(columns)))
    events = prepare(config, tmp_path / "out", notify=silent).events(0)
    expected = {
        "i": [1, None, 3],
        "s": ["a", None, ""],
        "f": ["1", "2.5", None],
        "b": [1, None, 0],
        "d": ["x", None, "y"],
        "n": [None] * 3,
    }
    assert {name: events[f"feature:{name}"].to_pylist() for name in columns} == expected
    assert events["time"].type == pa.int64()


def test_a_feature_may_be_called_as_the_label(tmp_path: Path, write: Write) -> None:
    columns = Columns(event_features=("label", "row"))
    log = random_log().rename_columns(
        ["user_id", "item_id", "timestamp", "row", "action", "label", "position", "price"]
    )
    prepared = prepare(config_of(write(log), columns=columns, impressions=LabelColumn()), tmp_path, notify=silent)
    assert prepared.events(0)["feature:label"].to_pylist() == prepared.events(0)["label"].to_pylist()


def test_the_same_twice_does_no_work(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(random_log())
    first = prepare(config_of(path), tmp_path / "out", notify=silent)

    def work(*_: Any) -> None:
        raise AssertionError("worked")

    said: list[str] = []
    monkeypatch.setattr(preparation, "_write_buckets", work)
    again = prepare(config_of(path, memory_limit_mb=500), tmp_path / "out", notify=said.append)
    assert again.manifest == first.manifest
    assert any("nothing to do" in line for line in said)
    with pytest.raises(AssertionError, match="worked"):  # another config
        prepare(config_of(path, events_per_bucket=7), tmp_path / "out", notify=silent)
    write(random_log(seed=1))
    with pytest.raises(AssertionError, match="worked"):  # another content under the same name
        prepare(config_of(path), tmp_path / "out", notify=silent)


KILL_BEFORE_MANIFEST = """
import os, sys
from pathlib import Path
from feature_store.logs.preparation import log_fingerprint, prepare
from feature_store.data_config import DataConfig
rename = Path.replace
Path.replace = lambda ours, target: os._exit(9) if target.name == sys.argv[3] else rename(ours, target)
prepare(DataConfig(log=sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("moment", ["rejects.parquet", "manifest.json"])
def test_a_killed_prepare_is_redone(tmp_path: Path, write: Write, moment: str) -> None:
    path, out = write(random_log()), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILL_BEFORE_MANIFEST, path, str(out), moment], capture_output=True)
    assert killed.returncode == 9
    assert (out / ".preparing").exists()
    with pytest.raises(DataError, match="no prepared log here"):
        PreparedLog.open(out)
    prepared = prepare(DataConfig(log=path), out, notify=silent)
    assert prepared.manifest.events + sum(prepared.manifest.rejects.values()) == random_log().num_rows
    tables = ["events", "impression-splits", "timeline-users"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*tables, "manifest.json", "rejects.parquet"])
    assert PreparedLog.open(out).manifest == prepared.manifest


def test_another_log_replaces_the_first(tmp_path: Path, write: Write) -> None:
    shown = write(random_log(seed=3), "shown.parquet")
    file = ImpressionFile(path=shown, column="clicked")
    path = write(random_log())
    with_file = prepare(config_of(path, impressions=file), tmp_path / "out", notify=silent)
    assert with_file.impressions(0).num_rows == 480
    said: list[str] = []
    prepare(DataConfig(log=path, events_per_bucket=100), tmp_path / "out", notify=said.append)
    assert any("has changed; preparing again" in line for line in said)
    assert not (tmp_path / "out" / "impressions").exists()


def test_a_bucket_without_users_is_empty(tmp_path: Path, write: Write) -> None:
    log = {"user_id": [7] * 30, "item_id": [1, 2] * 15, "timestamp": range(30)}
    prepared = prepare(DataConfig(log=write(log), events_per_bucket=3), tmp_path / "out", notify=silent)
    sizes = [prepared.events(bucket).num_rows for bucket in prepared.buckets()]
    assert sorted(sizes) == [0] * 9 + [30]
    assert len({prepared.events(bucket).schema for bucket in prepared.buckets()}) == 1
    with pytest.raises(IndexError):
        prepared.events(10)


def test_users_without_history_are_kept(tmp_path: Path, write: Write, load: Callable[..., Any]) -> None:
    shown = {"user_id": [1, 9, 9], "item_id": [5, 5, 6], "timestamp": [3, 0, 50], "seen": [1, 0, 1]}
    log = {"user_id": [1, 1, 2], "item_id": [5, 6, 6], "timestamp": [2, 3, 4]}
    file = ImpressionFile(path=write(shown, "shown.parquet"), column="seen")
    config = DataConfig(log=write(log), impressions=file, split=SplitByUser(validation=0, test=0))
    prepared, _, (sequences,) = load(config)
    assert prepared.manifest.users == 3
    assert sequences.users.to_pylist() == [1, 2, 9]
    assert sequences.event_offsets.tolist() == [0, 2, 3, 3]
    assert sequences.impression_offsets.tolist() == [0, 1, 1, 3]
    assert sequences.num_earlier.tolist() == [1, 0, 0]
    assert sequences.label.tolist() == [1, 0, 1]


def test_a_manifest_of_another_version_is_refused(tmp_path: Path, write: Write) -> None:
    prepare(DataConfig(log=write(random_log())), tmp_path / "out", notify=silent)
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps({"version": 0} | json.loads(manifest.read_text())))
    with pytest.raises(DataError, match="written by another version"):
        PreparedLog.open(tmp_path / "out")


def test_some_of_the_logs_files_are_a_log(tmp_path: Path, write: Write, load: Callable[..., Any]) -> None:
    log = random_log()
    for number in range(4):
        write(log.slice(120 * number, 120), f"log/{number}.parquet")
    source = ParquetSource.open(str(tmp_path / "log")).only([1, 3])
    config = config_of(str(tmp_path / "log"))
    prepared = prepare(config, tmp_path / "some", notify=silent, events=source)
    for number in (1, 3):
        write(log.slice(120 * number, 120), f"same/{number}.parquet")
    same = prepare(config_of(str(tmp_path / "same")), tmp_path / "same-prepared", notify=silent)
    assert prepared.events(0).equals(same.events(0))
    assert prepared.manifest.sources == ("1.parquet", "3.parquet")
    # The same files again are no work, others of the same log are.
    assert prepare(config, tmp_path / "some", notify=silent, events=source).manifest == prepared.manifest
    whole = prepare(config, tmp_path / "some", notify=silent)
    assert whole.manifest.events == 480


@pytest.mark.parametrize(
    ("events_per_bucket", "expected"), [(10_000, 1), (480, 1), (479, 4), (120, 4), (100, 8), (50, 12), (1, 480)]
)
def test_buckets_agree_with_those_of_a_store(
    tmp_path: Path, write: Write, events_per_bucket: int, expected: int
) -> None:
    config = config_of(write(random_log()), events_per_bucket=events_per_bucket)
    prepared = prepare(config, tmp_path / "out", notify=silent, buckets_multiple_of=4)
    assert prepared.num_buckets == expected
    for bucket in prepared.buckets():
        users = prepared.events(bucket, ["user"])["user"].combine_chunks()
        assert expected == 1 or set(bucket_of(users, 4).tolist()) <= {bucket % 4}
    # What was prepared in other buckets is not taken for it.
    if events_per_bucket == 120:
        said: list[str] = []
        prepare(config, tmp_path / "out", notify=said.append)
        assert any("preparing again" in line for line in said)
