"""Copies between stores: every kind to every other, another precision, and copies that were killed."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from feature_store.errors import DataError, LockedError
from feature_store.stores import MemoryStore, bucket_of, copy, create_store, make_memories, open_store
from feature_store.testing.sample_memories import (
    FACTS,
    SCHEMA,
    USERS,
    by_user,
    fill,
    in_bucket,
    journal_at,
    memories_of,
)
from tests.feature_store.stores.child_processes import killed_after
from tests.support.stores import STORES
from tests.support.waiting import until

Place = Callable[..., str]


@pytest.fixture
def source(place: Place) -> Any:
    with create_store(place("parquet", "source"), FACTS) as store:
        fill(store)
        with store.writer() as writer:
            writer.delete(5)
            writer.delete(1000)
        yield store


@pytest.fixture
def is_left(kind: str, address: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], bool]]:
    """Whether there is anything of a copy that has not got its name."""
    if kind == "redis":
        name = address.rpartition("=")[2]
        with redis.Redis(port=request.getfixturevalue("redis_port")) as server:
            yield lambda: bool(server.keys(f"rm-rec:{name}.copying:*"))
    else:
        folder = Path(address.partition(":")[2]).parent
        yield lambda: any("copying" in path.name or "creating" in path.name for path in folder.iterdir())


@pytest.mark.parametrize("target", STORES)
@pytest.mark.parametrize("kind", STORES)
def test_every_kind_to_every_other(kind: str, target: str, place: Place) -> None:
    with create_store(place(kind, "source"), FACTS) as source:
        fill(source)
        with source.writer() as writer:
            writer.delete(5)
        with copy(source, place(target, "target")) as copied:
            assert copied.address != source.address
            assert copied.facts == source.facts
            assert copied.journal() == source.journal() == journal_at(1, 0)
            assert copied.tombstones() == source.tombstones()
            assert by_user(copied.read_all()) == by_user(source.read_all())
            assert copied.count() == len(USERS) - 1
            fill(copied, pa.array([6]), seed=4, build=1)  # it is a store like others
    with open_store(place(target, "target")) as copied:
        assert copied.journal() == journal_at(2, 0)


def test_another_precision(source: MemoryStore, place: Place) -> None:
    with copy(source, place("lmdb"), dtype="float32") as wide:
        assert wide.facts.memory == SCHEMA.of_dtype("float32")
        users = pa.array([6, 7])
        for name, values in source.get(users)[0].state().items():
            np.testing.assert_array_equal(wide.get(users)[0].state()[name], values)
        with copy(wide, place("parquet"), dtype="float16") as narrow:
            assert narrow.facts == FACTS
            assert by_user(narrow.read_all()) == by_user(source.read_all())


def test_a_state_that_overflows_is_refused_by_name(place: Place) -> None:
    schema = SCHEMA.of_dtype("float32")
    users = pa.array([6])
    zero = np.zeros((1, 5), int)
    large = make_memories(
        schema,
        users,
        {"sum": np.full((1, 3, 4), 1e6, np.float32), "count": np.ones((1, 3), np.float32)},
        [1],
        [1],
        [0],
        dict.fromkeys(("time", "time_gap", "item", "shop"), zero),
    )
    with create_store(place("lmdb", "source"), FACTS.model_copy(update={"memory": schema})) as store:
        with store.writer() as writer:
            writer.write(int(bucket_of(users, 4)[0]), large, journal_at(0, 1))
            writer.finish(journal_at(1, 0))
        with pytest.raises(DataError, match=r"user 6 reaches 1e\+06, which overflows float16"):
            copy(store, place("lmdb"), dtype="float16")
        copy(store, place("lmdb")).close()


def test_what_is_there_already_is_kept(source: MemoryStore, address: str) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store, seed=9)
    with pytest.raises(DataError, match="here already"):
        copy(source, address)
    with open_store(address) as store:
        assert by_user(store.read_all()) == written


def test_a_target_made_meanwhile_is_kept(
    source: MemoryStore, address: str, monkeypatch: pytest.MonkeyPatch, is_left: Callable[[], bool]
) -> None:
    real, written = type(source).read_all, []

    def late(store: MemoryStore) -> Any:
        yield from real(store)
        monkeypatch.undo()
        assert is_left()
        with create_store(address, FACTS) as made:
            written.append(fill(made, seed=9))

    monkeypatch.setattr(type(source), "read_all", late)
    with pytest.raises(DataError, match="here already"):
        copy(source, address)
    assert not is_left()
    with open_store(address) as store:
        assert [by_user(store.read_all())] == written


def test_a_refused_copy_leaves_nothing(
    source: MemoryStore, address: str, monkeypatch: pytest.MonkeyPatch, is_left: Callable[[], bool]
) -> None:
    real = type(source).read_all

    def damaged(store: MemoryStore) -> Any:
        yield next(iter(real(store)))
        assert is_left()
        raise DataError("the memory of user 7 is damaged")

    monkeypatch.setattr(type(source), "read_all", damaged)
    with pytest.raises(DataError, match="user 7 is damaged"):
        copy(source, address)
    assert not is_left()
    with pytest.raises(DataError, match="no memories here"):
        open_store(address)


def test_a_store_without_users(address: str, place: Place) -> None:
    with create_store(place("lmdb", "source"), FACTS) as source, copy(source, address) as copied:
        assert copied.count() == 0
        assert copied.journal() == source.journal()


def test_a_build_under_way_is_not_copied(source: MemoryStore, address: str) -> None:
    with source.writer() as writer:
        writer.write(0, memories_of(in_bucket(USERS, 0)).select([0]), journal_at(1, 1))
    with pytest.raises(DataError, match="build build-1 is under way; finish that build"):
        copy(source, address)
    with pytest.raises(DataError, match="no memories here"):
        open_store(address)


@pytest.mark.parametrize("change", ["build", "delete"])
def test_a_source_that_changes_meanwhile_is_noticed(
    source: MemoryStore, address: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    real = type(source).read_all

    def changing(store: MemoryStore) -> Any:
        yield from real(store)
        if change == "build":
            fill(store, pa.array([6]), build=1)
        else:
            with store.writer() as writer:
                writer.delete(6)

    monkeypatch.setattr(type(source), "read_all", changing)
    with pytest.raises(DataError, match="it was written to during the copy; copy it again"):
        copy(source, address)
    monkeypatch.undo()
    with pytest.raises(DataError, match="no memories here"):
        open_store(address)
    with copy(source, address) as copied:
        assert by_user(copied.read_all()) == by_user(source.read_all())


def test_a_killed_copy_is_not_there_and_can_be_run_again(
    place: Place, kind: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_store.stores.redis_connection.LOCK_MILLISECONDS", 1000)
    with create_store(place("parquet", "source"), FACTS) as source:
        fill(source)

        def dying(say: Callable[[str], object]) -> None:
            from feature_store.stores.store import StoreWriter

            real, written = StoreWriter.write, []

            def write(writer: StoreWriter, *arguments: Any) -> None:
                real(writer, *arguments)
                written.append(1)
                if len(written) == 2:
                    say("dying")
                    os.kill(os.getpid(), signal.SIGKILL)

            StoreWriter.write = write  # type: ignore[method-assign]  # in a child of its own
            copy(source, address)

        assert killed_after(60, dying) == ["dying"]
        with pytest.raises(DataError, match="no memories here"):
            open_store(address)
        if kind == "redis":  # whose lock ends by itself
            with pytest.raises(LockedError, match="another process is writing to it"):
                copy(source, address)
            url, _, name = address.partition("?name=")
            with redis.Redis.from_url(url) as server:
                until("the lock of the killed copy ends", lambda: not server.keys(f"rm-rec:{name}*:writer"))
        with copy(source, address) as copied:
            assert by_user(copied.read_all()) == by_user(source.read_all())
    if kind != "redis":
        folder = address.partition(":")[2]
        beside = os.listdir(os.path.dirname(folder))
        assert [name for name in beside if "copying" in name or "creating" in name] == []


def test_what_a_build_writes_while_its_draft_is_copied_is_refused(source: MemoryStore, place: Place) -> None:
    """Two copies to one target do not mix."""
    address = place("lmdb")
    draft = address.replace("lmdb-store", ".lmdb-store.copying")
    refused = pytest.raises(LockedError, match="another process is writing to it")
    with create_store(draft, FACTS) as other, other.writer(), refused:
        copy(source, address)
    shutil.rmtree(draft.partition(":")[2])
