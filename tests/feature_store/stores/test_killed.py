"""A writer that dies at any moment leaves the last committed step, and the build goes on from there."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.errors import LockedError
from feature_store.stores import MemoryStore, StoreWriter, create_store, open_store
from feature_store.stores.users import tombstones_of
from feature_store.testing.sample_memories import (
    FACTS,
    NUM_BUCKETS,
    USERS,
    by_user,
    fill,
    in_bucket,
    journal_at,
    memories_of,
)
from tests.feature_store.stores.child_processes import killed_after

HERE = [in_bucket(USERS, bucket) for bucket in range(NUM_BUCKETS)]


def built(build: int, step: int = NUM_BUCKETS) -> dict[Any, bytes]:
    """The records that the first `step` steps of a build write."""
    return by_user(memories_of(HERE[bucket], seed=build * NUM_BUCKETS + bucket) for bucket in range(step))


def at(store: MemoryStore) -> tuple[int, int]:
    journal = store.journal()
    step = journal.under_way.step if journal.under_way else 0
    assert journal == journal_at(len(journal.builds), step)
    return len(journal.builds), step


def go_on(store: MemoryStore, say: Callable[[str], object]) -> None:
    """Do what is left of the build under way, or a whole one."""
    build, done = at(store)
    with store.writer() as writer:
        for bucket in range(done, NUM_BUCKETS):
            memories = memories_of(HERE[bucket], seed=build * NUM_BUCKETS + bucket)
            writer.write(bucket, memories, journal_at(build, bucket + 1))
            say(f"{build} {bucket + 1}")
        writer.finish(journal_at(build + 1, 0))
        say(f"{build + 1} 0")


def build_for_ever(say: Callable[[str], object], address: str) -> None:
    with open_store(address) as store:
        while True:
            go_on(store, say)


def unlocked(address: str) -> MemoryStore:
    """Open a store once its killed writer keeps nobody out."""
    store = open_store(address)
    for _ in range(100):
        try:
            with store.writer():
                return store
        except LockedError:
            time.sleep(0.05)
    raise AssertionError("the lock of a killed writer does not end")


@pytest.mark.parametrize("kills", [pytest.param(4, id="few"), pytest.param(60, id="many", marks=pytest.mark.slow)])
def test_a_killed_build_is_as_its_last_step_left_it_and_goes_on(
    kind: str, address: str, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_store.stores.redis_connection.LOCK_MILLISECONDS", 500)
    create_store(address, FACTS).close()
    draw = random.Random(7)
    for _ in range(kills):
        said = killed_after(draw.uniform(0.0, 0.15), build_for_ever, address)
        with open_store(address) as store:
            build, step = at(store)
            last = said[-1].split()
            assert (build, step) >= (int(last[0]), int(last[1])), "what was said to be committed is lost"
            before = built(build - 1) if build else {}
            expected = before if kind == "parquet" else before | built(build, step)
            assert by_user(store.read_all()) == expected
            assert store.count() == len(expected)
        with unlocked(address) as store:
            assert at(store) == (build, step)
            go_on(store, lambda _: None)
            assert by_user(store.read_all()) == built(build)
            assert at(store) == (build + 1, 0)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@contextmanager
def dying_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Die just before the disk is touched for the nth time; gives the names of what was called."""
    called: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if name != "open" or "w" in str(arguments[1:]):  # reading changes nothing
                called.append(name)
                if len(called) > call:
                    raise Killed
            return real(*arguments, **named)

        patch.setattr(owner, name, counted)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # what is not synced is there all the same, and this is faster
        watch(os, "link")
        watch(shutil, "rmtree")
        for name in ("replace", "rename", "unlink", "mkdir", "symlink_to", "open"):
            watch(Path, name)
        yield called


def steps() -> list[Callable[[StoreWriter], object]]:
    """A build with a deletion before, within and after it; each step may be run again."""
    first, second = memories_of(HERE[0], seed=50), memories_of(HERE[1].slice(0, 3), seed=51)
    third = memories_of(HERE[1].slice(3), seed=52)
    gone = [int(HERE[0][0].as_py()), int(HERE[1][0].as_py()), int(HERE[2][0].as_py())]
    keep = pa.array([user not in gone for user in first.users.to_pylist()])
    return [
        lambda writer: writer.delete(gone[0]),
        lambda writer: writer.write(0, first.select(keep.to_numpy(zero_copy_only=False)), journal_at(1, 1)),
        lambda writer: writer.write(1, second, journal_at(1, 2)),
        lambda writer: writer.delete(gone[1]),
        lambda writer: writer.write(1, third, journal_at(1, 3)),
        lambda writer: writer.finish(journal_at(2, 0)),
        lambda writer: writer.delete(gone[2]),
    ]


def seen(store: MemoryStore) -> tuple[Any, ...]:
    return by_user(store.read_all()), store.count(), store.journal(), store.tombstones()


def users_in_files(folder: Path) -> set[bytes]:
    columns = [pq.read_table(file, partitioning=None)["user"] for file in folder.rglob("*.parquet")]
    return {tombstone for column in columns for tombstone in tombstones_of(column)}


def steps_done(store: MemoryStore, call: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count the steps that end before the writer dies."""
    done = 0
    try:
        with dying_at(call, monkeypatch), store.writer() as writer:
            for step in steps():
                step(writer)
                done += 1
    except Killed:
        return done
    raise AssertionError("nobody died")


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_a_store_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for call in range(100):
        address = f"{kind}:{tmp_path / str(call)}"
        try:
            with dying_at(call, monkeypatch):
                create_store(address, FACTS).close()
            break
        except Killed:
            pass
        if (tmp_path / str(call)).exists():
            open_store(address).close()
        else:
            create_store(address, FACTS).close()
    assert call > 3


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({"replace", "rmtree"}, id="commits"),
        pytest.param({"link", "mkdir", "open", "rmtree", "replace", "symlink_to", "unlink"}, marks=pytest.mark.slow),
    ],
)
def test_snapshots_survive_a_death_before_any_touch_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: set[str]
) -> None:
    with create_store(f"parquet:{tmp_path / 'filled'}", FACTS) as store:
        fill(store)

    def filled() -> MemoryStore:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "filled", tmp_path / "copy", symlinks=True)
        return open_store(str(tmp_path / "copy"))

    store = filled()
    expected = [seen(store)]
    with dying_at(10**6, monkeypatch) as called, store.writer() as writer:
        for step in steps():
            step(writer)
            expected.append(seen(store))
        touches = list(called)
    assert len(touches) > 80

    for call in [place for place, name in enumerate(touches) if name in names]:
        store = filled()
        done = steps_done(store, call, monkeypatch)
        left = seen(store)
        assert left in (expected[done], expected[done + 1]), f"killed at call {call}, in step {done}"
        with store.writer() as writer:
            assert seen(store) == left
            assert not users_in_files(tmp_path / "copy") & store.tombstones()
            for step in steps()[done:]:
                step(writer)
        assert seen(store) == expected[-1], f"killed at call {call}, in step {done}"
        files = {path.name for path in (tmp_path / "copy").iterdir()}
        assert {name for name in files if not name.startswith("snapshot-")} == {
            "_store.json",
            "_deleted.json",
            "current",
            "writer.lock",
        }
        assert len(files) == 5, "older snapshots hold what was deleted"
