"""Late events are set aside, or their users built anew; deleted users stay deleted."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from feature_store.stores import bucket_of, open_store
from pipelines import build_memory, memories
from tests.end_to_end.building.builds import WRITE, NewStore, arguments, late_events, left_behind
from tests.support.nights import assert_same, build, contents, journal, write
from tests.support.small_runs import Kill, one_line, run_forked
from tests.support.stores import STORES


def test_late_events_are_set_aside(
    model: Path, tmp_path: Path, two_nights: Callable[[str], tuple[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, second = two_nights(str(tmp_path / "memories"))
    held = {user: int(record["last_time"]) for user, record in contents(address).items()}
    table = pq.read_table(second)
    rows = [(row["user_id"], row["timestamp"], row["item_id"], row["action"]) for row in table.to_pylist()]
    late = [row for row in rows if row[1] < held.get(row[0], -1)]
    capsys.readouterr()
    build(model, address, second, tmp_path / "out", "--dtype", "float32")
    found = late_events(tmp_path / "out")
    assert sorted((row["user"], row["time"], row["item"], row["feature:action"]) for row in found) == sorted(late)
    assert all(row["memory_time"] == held[row["user"]] for row in found)
    done = journal(address).builds[-1]
    assert (done.late, done.events) == (len(late), len(rows) - len(late))
    assert done.late > 10
    assert f"Late events  {tmp_path / 'out' / 'late'}" in capsys.readouterr().out
    # The same without them leaves the same memories.
    without = [row for row in table.to_pylist() if row["timestamp"] >= held.get(row["user_id"], -1)]
    path = write(pa.Table.from_pylist(without, table.schema), tmp_path / "without.parquet")
    other, _ = two_nights(str(tmp_path / "other"))
    build(model, other, path, tmp_path / "out-other", "--dtype", "float32")
    assert_same(contents(address), contents(other), atol=1e-6)
    assert not (tmp_path / "out-other" / "late").exists()


@pytest.mark.parametrize("kind", STORES)
def test_users_with_late_events_are_built_anew(
    model: Path, tmp_path: Path, kind: str, new_store: NewStore, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    address, second = two_nights(new_store(kind, tmp_path / "memories"))
    before = contents(address)
    write(pq.read_table(tmp_path / "first.parquet"), tmp_path / "log" / "1.parquet")
    write(pq.read_table(second), tmp_path / "log" / "2.parquet")
    whole = new_store(kind, tmp_path / "whole")
    build(model, whole, tmp_path / "log", tmp_path / "out-whole", "--dtype", "float32")
    argv = arguments(model, address, tmp_path / "log", tmp_path / "out", "--late", "rebuild-user")
    if kind != "redis":  # whose writer, once killed, keeps others out for half a minute
        for kill in (Kill("pipelines.building.builder:prepare", call=2, when="after"), Kill(WRITE, when="after")):
            assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=kill).returncode == -9
    assert build_memory.main(argv) == 0
    assert_same(contents(address), contents(whole), atol=1e-5)
    done = journal(address).builds[-1]
    late_users = {
        row["user_id"]
        for row in pq.read_table(second).to_pylist()
        if row["user_id"] in before and row["timestamp"] < before[row["user_id"]]["last_time"]
    }
    assert done.rebuilt_users == len(late_users) > 1
    assert done.late > 0
    assert not (tmp_path / "out" / "late").exists()
    assert left_behind(tmp_path / "out") == []


def test_without_the_old_files_nobody_is_built_anew_and_the_build_may_go_on(
    model: Path, tmp_path: Path, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    address, second = two_nights(str(tmp_path / "memories"))
    expected, _ = two_nights(str(tmp_path / "expected"))
    table = pq.read_table(second)
    with open_store(address) as store:  # so that late events come in the third bucket, when two are written
        users = table["user_id"].combine_chunks()
        is_late = pc.less(pc.cast(pa.array(range(len(table))), pa.int64()), 200)
        early = pa.array(bucket_of(users, store.facts.num_buckets) < 2)
    table = table.filter(pc.or_(is_late, pc.invert(early)))
    second = write(table, tmp_path / "second.parquet")
    argv = arguments(model, address, second, tmp_path / "out", "--late", "rebuild-user")
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    assert "first.parquet, consumed earlier, is not here; it is needed because an event came late" in line
    assert line.endswith("Name a log with all files, or use --late set-aside")
    assert len(contents(address)) > 10
    build(model, address, second, tmp_path / "out", "--dtype", "float32")
    build(model, expected, second, tmp_path / "out-expected", "--dtype", "float32")
    assert_same(contents(address), contents(expected), atol=1e-6)
    assert journal(address) == journal(expected)
    assert left_behind(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_deleted_users_stay_deleted(
    model: Path, tmp_path: Path, kind: str, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    address, second = two_nights(f"{kind}:{tmp_path / 'memories'}")
    table = pq.read_table(second)
    gone = max(contents(address), key=lambda user: table["user_id"].to_pylist().count(user))
    assert memories.main(["delete-user", "--memories", address, "--user", str(gone)]) == 0
    assert gone not in contents(address)
    write(pq.read_table(tmp_path / "first.parquet"), tmp_path / "log" / "1.parquet")
    write(table, tmp_path / "log" / "2.parquet")
    build(model, address, tmp_path / "log", tmp_path / "out", "--dtype", "float32", "--late", "rebuild-user")
    done = journal(address).builds[-1]
    assert done.skipped_deleted == table["user_id"].to_pylist().count(gone) > 1
    assert done.events == len(table) - done.skipped_deleted
    assert gone not in contents(address)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["skipped_deleted"] == done.skipped_deleted
    assert done.rebuilt_users > 0
