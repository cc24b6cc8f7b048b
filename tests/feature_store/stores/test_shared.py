"""Stores that a process opens once: the same one for all who ask, up to date, and never one that was replaced."""

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_store.errors import DataError
from feature_store.stores import (
    Journal,
    MemorySchema,
    MemoryStore,
    StoreFacts,
    create_store,
    make_memories,
    shared_store,
)
from feature_store.stores.lmdb import LmdbStore
from feature_store.stores.redis import RedisStore
from feature_store.stores.users import bucket_of

KINDS = ("lmdb", "parquet")
SCHEMA = MemorySchema(
    state={"sum": (2,)}, exact=(), dtype="float32", window_events=1, features=("item",), user_type="int64"
)


def create(place: Path, kind: str, space: str = "aa") -> str:
    return create_at(f"{kind}:{place}", space)


def create_at(address: str, space: str = "aa") -> str:
    create_store(address, StoreFacts(space_id=space, memory=SCHEMA, num_buckets=1)).close()
    return address


def write(store: MemoryStore, user: int, value: float) -> None:
    users = pa.array([user])
    ones = np.ones((1, 1), np.int64)
    memories = make_memories(
        SCHEMA,
        users,
        {"sum": np.full((1, 2), value, np.float32)},
        np.array([9]),
        np.array([1]),
        np.array([1]),
        {"time": ones, "time_gap": ones, "item": ones},
    )
    with store.writer() as writer:
        writer.write(int(bucket_of(users, 1)[0]), memories, Journal())
        writer.finish(Journal())


def write_elsewhere(address: str, user: int, value: float) -> None:
    """Write from another process, as a build does."""
    process = multiprocessing.get_context("spawn").Process(target=_write, args=(address, user, value))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _write(address: str, user: int, value: float) -> None:
    write(shared_store(address), user, value)


def value_of(store: MemoryStore, user: int) -> float | None:
    memories, found = store.get(pa.array([user]))
    return float(memories.state()["sum"][0, 0]) if found[0] else None


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_opened_once_however_it_is_named(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = create(tmp_path / "store", kind)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    first = shared_store(address)
    for other in ("store", "./store/", f"{kind}:store", f"{kind}:../{tmp_path.name}/store", "link", address):
        assert shared_store(other) is first
    assert shared_store(create(tmp_path / "second", kind)) is not first


def test_many_threads_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, opened = create(tmp_path / "store", "lmdb"), []
    start = threading.Barrier(8)
    by_itself = LmdbStore.__init__

    def slowly(store: LmdbStore, place: str) -> None:
        time.sleep(0.1)
        by_itself(store, place)

    monkeypatch.setattr(LmdbStore, "__init__", slowly)

    def ask() -> None:
        start.wait()
        opened.append(shared_store(address))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(store) for store in opened}) == 1
    assert len(opened) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_what_another_process_writes_is_read(tmp_path: Path, kind: str) -> None:
    address = create(tmp_path / "store", kind)
    store = shared_store(address)
    assert value_of(store, 7) is None
    write_elsewhere(address, 7, 2.5)
    assert value_of(store, 7) == 2.5
    assert shared_store(address) is store
    assert not store.replaced()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_was_replaced_is_opened_anew(tmp_path: Path, kind: str) -> None:
    address = create(tmp_path / "store", kind)
    store = shared_store(address)
    write(store, 7, 1.0)
    shutil.rmtree(tmp_path / "store")
    assert store.replaced()
    with pytest.raises(DataError, match="no memories here"):
        shared_store(address)
    create(tmp_path / "store", kind, space="bb")
    again = shared_store(address)
    assert again.facts.space_id == "bb"
    assert value_of(again, 7) is None
    assert shared_store(address) is again
    if kind == "lmdb":  # who still reads the old one reads it to the end
        assert value_of(store, 7) == 1.0


def test_a_name_in_redis_that_was_given_to_another_store(tmp_path: Path, new_store: Callable[[str, Path], str]) -> None:
    address = create_at(new_store("redis", tmp_path))
    store = shared_store(address)
    write(store, 7, 1.0)
    assert shared_store(address) is store
    RedisStore.remove(address)
    assert store.replaced()
    create_at(address, space="bb")
    assert store.replaced()
    assert shared_store(address).facts.space_id == "bb"


def test_a_forked_process_does_not_use_what_its_parent_opened(tmp_path: Path) -> None:
    address = create(tmp_path / "store", "parquet")
    store = shared_store(address)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=lambda: answers.put(shared_store(address) is store))
    process.start()
    process.join(60)
    assert answers.get(timeout=10) is False
