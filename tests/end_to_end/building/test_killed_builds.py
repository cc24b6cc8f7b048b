"""A build that is killed, at whatever moment, goes on and ends as if it had not been."""

import json
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis

from pipelines import memories
from tests.end_to_end.building.builds import FINISH, WRITE, NewStore, arguments, break_off, late_events, left_behind
from tests.support.nights import assert_same, build, contents, journal, random_log, write
from tests.support.small_runs import Kill, one_line, run_forked
from tests.support.stores import STORES

SET_ASIDE = "pipelines.building.builder:MemoryBuilder._set_aside"
# One after the other; each goes on where the last was killed, a few buckets of four further.
MOMENTS = {
    "nothing is sorted": Kill("pipelines.building.builder:prepare"),
    "the log is sorted but not yet on disk": Kill("feature_store.logs.preparation:sync_tree"),
    "the log is sorted": Kill("pipelines.building.builder:prepare", when="after"),
    "late events are written, the first bucket is not": Kill(SET_ASIDE, when="after"),
    "before the first bucket is written": Kill(WRITE),
    "the first bucket is written": Kill(WRITE, when="after"),
    "before the late events of the second bucket": Kill(SET_ASIDE),
    "between the second bucket and the third": Kill(SET_ASIDE, call=2),
    "before the last bucket is written": Kill(WRITE, call=2),
    "all is written": Kill(FINISH),
    "all is written, again": Kill(FINISH),
    "the build is finished": Kill(FINISH, when="after"),
    "nobody was told": Kill("pipelines.build_memory.job:write_json"),
}


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
    assert f"interrupted build {under_way.build.id} after 4 of 4 buckets; build_memory resumes it" in said


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
        assert "which was interrupted, began with other settings of read.bad_rows or read.duplicate_rows" in line
    other_log = tmp_path / "log" / "b.parquet"
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, other_log, out)))
    assert f"{other_log}: build " in line
    assert "which was interrupted, needs a.parquet" in line
    assert line.endswith("which is not here; name the log that this build began with")
    assert journal(address) == begun
    # How it is read may change, and where.
    build(
        model, address, path, tmp_path / "elsewhere",
        "--read.events_per_bucket", 9, "--read.batch_events", 5, "--read.memory_limit_mb", 300,
    )  # fmt: skip
    build(model, tmp_path / "once", path, tmp_path / "out-once", "--dtype", "float32")
    assert_same(contents(address), contents(tmp_path / "once"), atol=1e-5)
