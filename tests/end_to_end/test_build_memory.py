"""Memories built night by night: as if at once, whatever is killed, full, late, deleted or asked for twice."""

import json
import random
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import Ended, Kill, run_forked

from feature_store.errors import DataError
from feature_store.memories import bucket_of, open_store
from pipelines import build_memory, memories
from pipelines.memory import fold as memory_fold
from pipelines.models.artifact import save_model
from pipelines.run_folder import locked
from tests.fakes import model_config
from tests.nights import (
    COLUMNS,
    LABELLED,
    STORES,
    assert_same,
    build,
    contents,
    cut,
    journal,
    random_log,
    train,
    write,
    write_nights,
)

NewStore = Callable[[str, Path], str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows ten items of the fifteen that its logs have."""
    folder = tmp_path_factory.mktemp("model")
    train(random_log(seed=9, items=10), folder, LABELLED)
    return folder / "model"


def arguments(model: Path, address: str, log: Path, out: Path, *more: object) -> list[str]:
    argv = ["--model", model, "--memories", address, "--log", log, "--out", out, "--num_buckets", 4, "--threads", 1]
    return [*map(str, [*argv, "--dtype", "float32", *more])]


def one_line(ended: Ended) -> str:
    """What a job that refused its input said: nothing but one line of error, beside its progress."""
    assert ended.returncode == 2, (ended.returncode, ended.stderr)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(("building: ", "scoring: "))]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.stdout + ended.stderr
    return lines[0]


def left_behind(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*") if path.name.startswith(("building", ".building")))


def counts(address: str) -> dict[str, int]:
    names = ("events", "users", "late", "skipped_deleted", "rebuilt_users")
    return {name: sum(getattr(build, name) for build in journal(address).builds) for name in names}


@pytest.mark.parametrize(("kind", "examples"), [("lmdb", 4), ("parquet", 3), ("redis", 2)])
def test_night_by_night_is_all_at_once(
    model: Path, tmp_path: Path, new_store: NewStore, kind: str, examples: int
) -> None:
    made = iter(range(1000))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 10_000),
        last=st.sampled_from([0, 30, 1_000_000]),
        text=st.booleans(),
        cuts=st.lists(st.floats(0, 1), max_size=4),
    )
    def check(seed: int, last: int, text: bool, cuts: list[float]) -> None:
        folder = tmp_path / str(next(made))
        log = random_log(seed, last=last, text=text)
        newest = pc.max(log["timestamp"]).as_py()
        often, once = (new_store(kind, folder / name) for name in ("often", "once"))
        nights = cut(log, [int(share * newest) for share in cuts])
        for path in write_nights(nights, folder / "log"):
            build(model, often, path, folder / "out", "--dtype", "float32", "--read.events_per_bucket", 30)
        build(model, once, write(log, folder / "whole.parquet"), folder / "out", "--dtype", "float32")
        assert_same(contents(often), contents(once), atol=1e-5)
        ours, theirs = counts(often), counts(once)
        repeats = len(log) - ours["events"]
        assert ours["events"] == theirs["events"] > 0
        assert repeats == 0 or last == 30  # a row that repeats another is set aside, in the night or in the whole
        assert ours["late"] == theirs["late"] == 0
        assert left_behind(folder / "out") == []

    check()


def test_events_of_a_nights_last_moment_may_come_the_next_night(model: Path, tmp_path: Path) -> None:
    log = random_log(last=12)
    keep = ("--dtype", "float32", "--read.duplicate_rows", "keep")
    for number, start in enumerate(range(0, 240, 60)):
        path = write(log.slice(start, 60), tmp_path / "log" / f"{number}.parquet")
        build(model, tmp_path / "often", path, tmp_path / "out", *keep)
    build(model, tmp_path / "once", tmp_path / "log", tmp_path / "out", *keep)
    assert_same(contents(tmp_path / "often"), contents(tmp_path / "once"), atol=1e-5)
    assert counts(str(tmp_path / "often"))["late"] == 0


def test_what_was_built_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = random_log()
    broken = log.slice(0, 4).set_column(1, "item_id", pa.nulls(4, pa.int64()))
    path = write(pa.concat_tables([log, log.slice(7, 3), broken]), tmp_path / "log.parquet")
    build(model, tmp_path / "memories", path, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (done,) = journal(tmp_path / "memories").builds
    users = len(log["user_id"].unique())
    assert {name: figures[name] for name in ("events", "users", "late", "builds", "memories")} == {
        "events": 240,
        "users": users,
        "late": 0,
        "builds": 1,
        "memories": users,
    }
    assert (done.events, done.users, done.first_time, done.last_time) == (240, users, 0, 2390)
    assert [(file.name, file.rows) for file in done.files] == [("log.parquet", 247)]
    reasons = pq.read_table(tmp_path / "out" / "rejects" / f"{done.id}.parquet")["rejected_reason"].to_pylist()
    assert sorted(reasons) == ["item_id is null"] * 4 + ["repeats an earlier row"] * 3
    said = capsys.readouterr().out
    for words in ("events folded", "240", "-m pipelines.score_batch --model", f"--memories {tmp_path / 'memories'}"):
        assert words in said
    with open_store(str(tmp_path / "memories")) as store:
        assert store.facts.memory.dtype == "float16"
        assert figures["bytes_per_user"] == store.facts.memory.bytes_per_user
        assert figures["memory_space"] == store.facts.space_id
        assert figures["bytes_on_disk"] == store.bytes_on_disk()


def files_of(folder: Path) -> dict[str, bytes]:
    """What a store's files hold; LMDB's lock file knows who reads, and is no part of it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb")
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_the_same_build_again_changes_nothing(
    model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address, store = f"{kind}:{tmp_path / 'memories'}", tmp_path / "memories"
    path = write(random_log(), tmp_path / "log.parquet")
    build(model, address, path, tmp_path / "out")
    before = files_of(store)
    capsys.readouterr()
    build(model, address, path, tmp_path / "out")
    assert files_of(store) == before
    assert f"{address}: every file of {path} was consumed before; nothing to do" in capsys.readouterr().out
    renamed = path.rename(tmp_path / "renamed.parquet")
    build(model, address, renamed, tmp_path / "elsewhere")
    assert files_of(store) == before
    assert json.loads((tmp_path / "elsewhere" / "metrics.json").read_text())["events"] == 0


def test_only_files_that_are_new_are_consumed(model: Path, tmp_path: Path) -> None:
    log = random_log()
    nights = [log.slice(0, 100), log.slice(100, 60), log.slice(160, 80)]
    write(nights[0], tmp_path / "log" / "a.parquet")
    build(model, tmp_path / "memories", tmp_path / "log", tmp_path / "out", "--dtype", "float32")
    (tmp_path / "log" / "a.parquet").rename(tmp_path / "log" / "z.parquet")
    write(nights[1], tmp_path / "log" / "b.parquet")
    write(nights[1], tmp_path / "log" / "b-again.parquet")
    write(nights[2], tmp_path / "log" / "later" / "c.parquet")
    build(model, tmp_path / "memories", tmp_path / "log", tmp_path / "out", "--dtype", "float32")
    first, second = journal(tmp_path / "memories").builds
    assert [file.name for file in first.files] == ["a.parquet"]
    assert [file.name for file in second.files] == ["b-again.parquet", "later/c.parquet"]
    assert (first.events, second.events) == (100, 140)
    build(model, tmp_path / "once", write(log, tmp_path / "whole.parquet"), tmp_path / "out", "--dtype", "float32")
    assert_same(contents(tmp_path / "memories"), contents(tmp_path / "once"), atol=1e-5)


WRITE, FINISH = "feature_store.memories.store:StoreWriter.write", "feature_store.memories.store:StoreWriter.finish"
SET_ASIDE = "pipelines.memory.builder:MemoryBuilder._set_aside"
# One after the other; each goes on where the last was killed, a few buckets of four further.
MOMENTS = {
    "nothing is sorted": Kill("pipelines.memory.builder:prepare"),
    "the log is sorted but not counted": Kill("feature_store.event_log:_count"),
    "the log is sorted": Kill("pipelines.memory.builder:prepare", when="after"),
    "late events are written, the first bucket is not": Kill(SET_ASIDE, when="after"),
    "before the first bucket is written": Kill(WRITE),
    "the first bucket is written": Kill(WRITE, when="after"),
    "before the late events of the second bucket": Kill(SET_ASIDE),
    "between the second bucket and the third": Kill(SET_ASIDE, call=2),
    "before the last bucket is written": Kill(WRITE, call=2),
    "all is written": Kill(FINISH),
    "all is written, again": Kill(FINISH),
    "the build is finished": Kill(FINISH, when="after"),
    "nobody was told": Kill("pipelines.build_memory:write_json"),
}


@pytest.fixture
def two_nights(model: Path, tmp_path: Path) -> Callable[[str], tuple[str, Path]]:
    """Build a store of a first night; return its address and the log of the second, some of whose events are late."""
    log = random_log(seed=1, events=400, users=30)
    first = log.filter(pc.equal(pc.bit_wise_and(log["timestamp"], 31), 0)).slice(0, 40)
    rest = log.filter(pc.invert(pc.is_in(log["timestamp"], first["timestamp"])))
    write(rest.slice(0, 200), tmp_path / "first.parquet")
    second = write(pa.concat_tables([rest.slice(200), first]), tmp_path / "second.parquet")

    def built(address: str) -> tuple[str, Path]:
        build(model, address, tmp_path / "first.parquet", tmp_path / "first-night", "--dtype", "float32")
        return address, second

    return built


def late_events(out: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(file) for file in sorted(out.glob("late/*/*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: (row["time"], row["user"]))


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_killed_at_every_moment(
    model: Path, tmp_path: Path, kind: str, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    unbroken, second = two_nights(f"{kind}:{tmp_path / 'unbroken'}")
    killed, _ = two_nights(f"{kind}:{tmp_path / 'killed'}")
    build(model, unbroken, second, tmp_path / "out", "--dtype", "float32")
    out = tmp_path / "killed-out"
    for moment, kill in MOMENTS.items():
        ended = run_forked(tmp_path, "pipelines.build_memory", *arguments(model, killed, second, out), kill=kill)
        assert ended.returncode == -9, f"{moment}: {ended.returncode} {ended.stderr}"
        assert not (out / "metrics.json").exists()
    assert journal(killed).under_way is None
    ended = run_forked(tmp_path, "pipelines.build_memory", *arguments(model, killed, second, out))
    assert ended.returncode == 0, ended.stderr
    assert "was consumed before; nothing to do" in ended.stdout
    assert journal(killed) == journal(unbroken)
    assert_same(contents(killed), contents(unbroken), atol=1e-6)
    assert late_events(out) == late_events(tmp_path / "out") != []
    assert left_behind(out) == []


def test_every_step_is_kept(
    model: Path, tmp_path: Path, two_nights: Callable[[str], tuple[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, second = two_nights(f"lmdb:{tmp_path / 'memories'}")
    for call in (1, 2, 1):
        ended = run_forked(
            tmp_path, "pipelines.build_memory", *arguments(model, address, second, tmp_path / "out"),
            kill=Kill(WRITE, call=call, when="after"),
        )  # fmt: skip
        assert ended.returncode == -9
    under_way = journal(address).under_way
    assert under_way is not None
    assert under_way.step == 4
    assert "building-" in left_behind(tmp_path / "out")[0]
    capsys.readouterr()
    assert memories.main(["inspect", "--memories", address]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"broken off build {under_way.build.id} after 4 of 4 buckets; build_memory goes on" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_killed_at_random_moments(
    model: Path, tmp_path: Path, kind: str, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty times, in as many nights as that takes; each night has late events."""
    log = random_log(seed=1, events=40_000, users=900)
    late = pa.array([place % 36 == 35 for place in range(len(log))])
    on_time, late_ones = log.filter(pc.invert(late)), log.filter(late)
    nights = iter(
        pa.concat_tables([on_time.slice(600 * number, 600), late_ones.slice(15 * number, 15)]) for number in range(64)
    )
    unbroken, killed = (new_store(kind, tmp_path / name) for name in ("unbroken", "killed"))
    sizes = ("--num_buckets", 16, "--read.batch_events", 256)
    folder, out = tmp_path / "log", tmp_path / "killed-out"
    argv = arguments(model, killed, folder, out, *sizes)

    def next_night(number: int) -> None:
        path = write(next(nights), folder / f"{number:02d}.parquet")
        build(model, unbroken, path, tmp_path / "out", "--dtype", "float32", *sizes)

    def free() -> None:
        """A killed writer's lock in Redis ends by itself, after half a minute."""
        if kind == "redis":
            server, name = killed.split("?name=")
            with redis.Redis.from_url(server) as client:
                client.delete(f"rm-rec:{name}:writer")

    draw, wait, patience = random.Random(0), BaseProcess.join, [0.0]

    def impatient(self: Any, timeout: float | None = None) -> None:
        wait(self, patience[0])
        self.kill()
        wait(self, 60)

    for number in range(2):  # the first run waits for the process that others are forked from
        next_night(number)
        started = time.monotonic()
        assert run_forked(tmp_path, "pipelines.build_memory", *argv).returncode == 0
        usual = time.monotonic() - started
    next_night(2)
    steps, times_killed, done = set(), 0, 3
    with monkeypatch.context() as during:
        during.setattr(BaseProcess, "join", impatient)
        while times_killed < 50:
            patience[0] = draw.uniform(0.1, 1.2) * usual
            ended = run_forked(tmp_path, "pipelines.build_memory", *argv)
            assert ended.returncode in (0, -9), ended.stderr
            free()
            under_way = journal(killed).under_way
            steps.add(under_way.step if under_way is not None else 0)
            assert len(contents(killed)) <= len(contents(unbroken))
            if ended.returncode == 0:
                next_night(done)
                done += 1
            times_killed += ended.returncode == -9
    assert len(steps) > 4, steps
    assert run_forked(tmp_path, "pipelines.build_memory", *argv).returncode == 0
    assert journal(killed) == journal(unbroken)
    assert_same(contents(killed), contents(unbroken), atol=1e-6)
    assert late_events(out) == late_events(tmp_path / "out") != []
    assert left_behind(out) == []


def break_off(model: Path, address: str, log: Path, out: Path, *more: object) -> None:
    """Begin a build that is killed after its first bucket."""
    kill = Kill(WRITE, when="after")
    out.parent.mkdir(parents=True, exist_ok=True)
    ended = run_forked(out.parent, "pipelines.build_memory", *arguments(model, address, log, out, *more), kill=kill)
    assert ended.returncode == -9, ended.stderr


def test_a_build_that_was_broken_off_and_newer_files_both_end(model: Path, tmp_path: Path) -> None:
    log = random_log()
    address, out = str(tmp_path / "memories"), tmp_path / "out"
    write(log.slice(0, 100), tmp_path / "log" / "a.parquet")
    break_off(model, address, tmp_path / "log", out)
    write(log.slice(100), tmp_path / "log" / "b.parquet")
    build(model, address, tmp_path / "log", out, "--dtype", "float32")
    assert [[file.name for file in build.files] for build in journal(address).builds] == [["a.parquet"], ["b.parquet"]]
    build(model, tmp_path / "once", tmp_path / "log", tmp_path / "out-once", "--dtype", "float32")
    assert_same(contents(address), contents(tmp_path / "once"), atol=1e-5)
    assert json.loads((out / "metrics.json").read_text())["events"] == 240
    assert left_behind(out) == []


def test_a_kill_before_the_first_step_leaves_nothing_to_go_on_with(model: Path, tmp_path: Path) -> None:
    """With newer files it is another build, and the log that was sorted for the first is taken away."""
    log, out = random_log(), tmp_path / "out"
    write(log.slice(0, 100), tmp_path / "log" / "a.parquet")
    argv = arguments(model, str(tmp_path / "memories"), tmp_path / "log", out)
    assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=Kill(WRITE)).returncode == -9
    assert len(left_behind(out)) == 1
    write(log.slice(100), tmp_path / "log" / "b.parquet")
    build(model, tmp_path / "memories", tmp_path / "log", out)
    (done,) = journal(tmp_path / "memories").builds
    assert (len(done.files), done.events) == (2, 240)
    assert left_behind(out) == []


def test_a_build_goes_on_with_its_own_files_and_settings(model: Path, tmp_path: Path) -> None:
    log = random_log()
    address, out = str(tmp_path / "memories"), tmp_path / "out"
    path = write(log.slice(0, 120), tmp_path / "log" / "a.parquet")
    write(log.slice(120), tmp_path / "log" / "b.parquet")
    break_off(model, address, path, out)
    begun = journal(address)
    for other in (("--read.duplicate_rows", "keep"), ("--read.bad_rows", "error")):
        argv = arguments(model, address, path, out, *other)
        line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
        assert "which was broken off, began with other settings of read.bad_rows or read.duplicate_rows" in line
    other_log = tmp_path / "log" / "b.parquet"
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, other_log, out)))
    assert f"{other_log}: build " in line
    assert "which was broken off, needs a.parquet" in line
    assert line.endswith("which is not here; name the log that build began with")
    assert journal(address) == begun
    # How it is read may change, and where.
    build(
        model, address, path, tmp_path / "elsewhere",
        "--read.events_per_bucket", 9, "--read.batch_events", 5, "--read.memory_limit_mb", 300,
    )  # fmt: skip
    build(model, tmp_path / "once", path, tmp_path / "out-once", "--dtype", "float32")
    assert_same(contents(address), contents(tmp_path / "once"), atol=1e-5)


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
        for kill in (Kill("pipelines.memory.builder:prepare", call=2, when="after"), Kill(WRITE, when="after")):
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
    assert "first.parquet, consumed earlier, is not here, and an event came late" in line
    assert line.endswith("Name a log with all files, or take --late set-aside")
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


@pytest.mark.parametrize("kind", STORES)
def test_a_second_writer_is_refused(model: Path, tmp_path: Path, kind: str, new_store: NewStore) -> None:
    address, log = new_store(kind, tmp_path / "memories"), random_log()
    build(model, address, write(log.slice(0, 100), tmp_path / "a.parquet"), tmp_path / "out")
    path = write(log.slice(100), tmp_path / "b.parquet")
    before = contents(address)
    with open_store(address) as store, store.writer():
        ended = run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, path, tmp_path / "other"))
    assert "another writer is at work" in one_line(ended)
    assert contents(address).keys() == before.keys()
    build(model, address, path, tmp_path / "other")
    assert counts(address)["events"] == 240


def test_two_builds_in_one_folder_are_refused(model: Path, tmp_path: Path) -> None:
    path = write(random_log(), tmp_path / "a.parquet")
    with locked(tmp_path / "out"):
        argv = arguments(model, str(tmp_path / "memories"), path, tmp_path / "out")
        line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    assert line == f"error: {tmp_path / 'out'}: another process is at work here; wait for it, or give another --out"
    assert not (tmp_path / "memories").exists()


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_a_full_disk_is_one_line_and_no_loss(
    model: Path, tmp_path: Path, kind: str, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    """A limit on the size of files stands in for a full disk: at each size something else cannot be written."""
    address, _ = two_nights(f"{kind}:{tmp_path / 'memories'}")
    expected, _ = two_nights(f"{kind}:{tmp_path / 'expected'}")
    second = write(random_log(seed=2, events=3000, users=300).set_column(
        2, "timestamp", pa.array(np.arange(3000) + 10_000)), tmp_path / "big.parquet")  # fmt: skip
    before = contents(address)
    largest = max(path.stat().st_size for path in (tmp_path / "memories").rglob("*") if path.is_file())
    argv = arguments(model, address, second, tmp_path / "out")
    said = []
    for limit in (3_000, None, 1_000, largest + 4_096, largest + 20_000, largest + 100_000):
        if limit is None:  # from here on the log is sorted, and it is the store that has no room
            assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=Kill(WRITE)).returncode == -9
            continue
        ended = run_forked(tmp_path, "pipelines.build_memory", *argv, largest_file=limit)
        if ended.returncode == 0:
            break
        line = one_line(ended)
        # LMDB takes a page that was written in part for a fault of the disk.
        assert "File too large" in line or f"{address}: Input/output error; the disk is failing or full" in line
        said.append(line)
        assert before.keys() <= contents(address).keys()
    build(model, address, second, tmp_path / "out", "--dtype", "float32")
    build(model, expected, second, tmp_path / "out-expected", "--dtype", "float32")
    assert_same(contents(address), contents(expected), atol=1e-6)
    assert journal(address) == journal(expected)
    assert left_behind(tmp_path / "out") == []
    assert f"error: {second}: DuckDB" in said[0]
    assert any(line.startswith(f"error: {address}: ") for line in said)


def test_a_damaged_record_is_named(model: Path, tmp_path: Path) -> None:
    log = random_log()
    address = str(tmp_path / "memories")
    build(model, address, write(log.slice(0, 120), tmp_path / "a.parquet"), tmp_path / "out")
    user = log["user_id"][-1].as_py()
    with lmdb.open(address, max_dbs=3, map_size=1 << 30) as environment:
        records = environment.open_db(b"records", create=False)
        with environment.begin(write=True, db=records) as transaction:
            ((key, value),) = [pair for pair in transaction.cursor() if bytes(pair[0]).endswith(str(user).encode())]
            transaction.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    path = write(log.slice(120), tmp_path / "b.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, path, tmp_path / "out")))
    assert f"memory of user {user} is damaged (checksum " in line
    assert "rebuild it with `python -m pipelines.build_memory` in a new store, or restore a copy of this one" in line
    candidates = write(
        log.slice(120).select(["user_id", "item_id", "position", "price", "age"]), tmp_path / "c.parquet"
    )
    argv = ["--model", model, "--memories", address, "--candidates", candidates, "--out", tmp_path / "s.parquet"]
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv))
    assert f"memory of user {user} is damaged (checksum " in line
    assert not (tmp_path / "s.parquet").exists()


def test_a_model_of_another_space_is_refused(model: Path, tmp_path: Path) -> None:
    log = random_log(seed=9, items=10)
    path = write(log, tmp_path / "log.parquet")
    address = str(tmp_path / "memories")
    build(model, address, path, tmp_path / "out")
    other = train(log, tmp_path / "other", LABELLED, seed=5)
    argv = arguments(tmp_path / "other" / "model", address, path, tmp_path / "out")
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    built = json.loads((model / "model.json").read_text())["memory_space"]
    assert line == (
        f"error: lmdb:{address}: its memories were built in space {built}, model {tmp_path / 'other' / 'model'} is in "
        f"{other.card.memory_space}; build its own: python -m pipelines.build_memory --model "
        f"{tmp_path / 'other' / 'model'} --memories NEW_STORE --log LOG"
    )
    forgetful = train(
        log, tmp_path / "none", LABELLED, config=model_config(machine="none", window={"kind": "whole_history"})
    )
    assert forgetful.card.memory_space is None
    with pytest.raises(DataError, match="its window is the whole history; build its own"):
        build(tmp_path / "none" / "model", address, path, tmp_path / "out")
    with pytest.raises(DataError, match="its window is the whole history; there is no memory of fixed size to build"):
        build(tmp_path / "none" / "model", tmp_path / "new", path, tmp_path / "out")
    assert not (tmp_path / "new").exists()


def test_a_model_with_another_head_and_reader_goes_on_with_the_same_memories(tmp_path: Path) -> None:
    log = random_log()
    plain = train(log, tmp_path / "plain", LABELLED)
    config = model_config(head={"hidden_dims": (4, 4)}, reader={"kind": "attention", "num_heads": 1})
    other = train(log, tmp_path / "other", LABELLED, config=config, seed=3)
    other.model.load_state_dict(plain.model.writing_weights(), strict=False)
    save_model(tmp_path / "other" / "model", other.model, other.vocabularies, COLUMNS, LABELLED)
    for name, folder in (("one", "plain"), ("two", "other")):
        for number, rows in enumerate((log.slice(0, 120), log.slice(120))):
            path = write(rows, tmp_path / f"{number}.parquet")
            used = tmp_path / (folder if number else "plain") / "model"
            build(used, tmp_path / name, path, tmp_path / "out", "--dtype", "float32")
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"), atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["action"]), "no column 'action'"),
        (lambda t: t.drop_columns(["user_id"]), "no column 'user_id'"),
        (lambda t: t.set_column(0, "user_id", t["user_id"].cast(pa.float64())), "column 'user_id' holds floats"),
        (lambda t: t.set_column(0, "user_id", pa.nulls(240)), "column 'user_id' holds only nulls"),
        (lambda t: t.set_column(2, "timestamp", t["timestamp"].cast(pa.string())), "column 'timestamp' holds strings"),
    ],
)
def test_a_log_that_is_refused_makes_no_store(
    model: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    path = write(change(random_log()), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=said) as caught:
        build(model, tmp_path / "memories", path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "memories").exists()


def test_what_is_wrong_is_one_line(model: Path, tmp_path: Path) -> None:
    log = random_log()
    path = write(log, tmp_path / "log.parquet")
    build(model, tmp_path / "memories", path, tmp_path / "out")
    text = write(
        log.slice(5).set_column(0, "user_id", log["user_id"].slice(5).cast(pa.string())), tmp_path / "t.parquet"
    )
    for log_path, store, out, wrong in (
        (tmp_path / "nothing.parquet", tmp_path / "memories", tmp_path / "out", "no such file or folder"),
        (text, tmp_path / "memories", tmp_path / "out", "its users are int64, these are string; cast the column"),
        (path, "nonsense://x", tmp_path / "out", "is no store of memories; expected lmdb:PATH"),
        (path, tmp_path / "out", tmp_path / "out-2", "there is something here already"),
        (path, tmp_path / "memories", path, "File exists; name a place that can be written"),
    ):
        argv = arguments(model, str(store), log_path, out)
        assert wrong in one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    argv = arguments(tmp_path, str(tmp_path / "memories"), path, tmp_path / "out")
    assert "is not a model: it has no model.safetensors" in one_line(
        run_forked(tmp_path, "pipelines.build_memory", *argv)
    )
    assert counts(str(tmp_path / "memories"))["events"] == 240


def test_a_bucket_is_in_memory_at_a_time(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events a log has, a part of it holds about as many as was asked for."""
    path = write(random_log(events=1200, users=60), tmp_path / "log.parquet")
    sizes: list[int] = []
    read = memory_fold.read_user_events

    def counted(*arguments: Any) -> Any:
        events = read(*arguments)
        sizes.append(len(events.time))
        return events

    monkeypatch.setattr(memory_fold, "read_user_events", counted)
    build(model, tmp_path / "memories", path, tmp_path / "out", "--read.events_per_bucket", 100)
    assert len(sizes) == 12
    assert sum(sizes) == 1200
    assert max(sizes) < 400


@pytest.mark.slow
def test_memory_use_does_not_grow_with_the_log(model: Path, tmp_path: Path) -> None:
    """What NumPy holds at most: with parts of 2,000 events it is that of a part, else that of a log."""

    def peak(events: int, events_per_bucket: int) -> int:
        place = tmp_path / f"{events}-{events_per_bucket}"
        log = random_log(events=events)  # in which few users act often: here each acts a hundred times
        users = np.random.default_rng(0).permutation(np.arange(events) // 100)
        path = write(log.set_column(0, "user_id", pa.array(users)), place / "log.parquet")
        tracemalloc.start()
        try:
            build(model, place / "memories", path, place / "out", "--read.events_per_bucket", events_per_bucket)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000, 1000)  # whatever is kept from the first time on
    assert peak(80_000, 2_000) < 2 * peak(10_000, 2_000)
    assert peak(80_000, 10**9) > 4 * peak(10_000, 10**9)
