"""The Redis store: its lock, its errors, its password, and a server that is full or gone."""

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from feature_store.errors import DataError, LockedError
from feature_store.stores import MemoryStore, bucket_of, create_store, open_store
from feature_store.stores.redis import RedisStore
from feature_store.stores.redis_address import RedisAddress
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
from tests.support.redis_servers import redis_server
from tests.support.waiting import until


@pytest.fixture
def address(place: Callable[..., str]) -> str:
    return place("redis")


@pytest.fixture
def server(redis_port: int) -> Iterator[Any]:
    with redis.Redis(port=redis_port) as client:
        yield client


@pytest.fixture
def store(address: str) -> Iterator[RedisStore]:
    with create_store(address, FACTS) as made:
        assert isinstance(made, RedisStore)
        yield made


def key(address: str, what: str) -> str:
    return f"rm-rec:{RedisAddress.parse(address).name}:{what}"


def test_one_hash_a_bucket_and_one_transaction_a_write(store: MemoryStore, address: str, server: Any) -> None:
    users = in_bucket(pa.array(range(12_000)), 2)
    assert len(users) > 2_500
    memories = memories_of(users)
    server.config_resetstat()
    with store.writer() as writer:
        writer.write(2, memories, journal_at(0, 1))
        calls = {name: stats["calls"] for name, stats in server.info("commandstats").items()}
        assert calls["cmdstat_exec"] == 1
        assert calls["cmdstat_hset"] > 1
    assert server.hlen(key(address, "bucket:2")) == len(users)
    assert server.keys(key(address, "bucket:*")) == [key(address, "bucket:2").encode()]
    assert by_user([store.get(users)[0]]) == by_user([memories]) == by_user(store.read_all())


def test_a_damaged_record_is_found_and_its_user_named(store: MemoryStore, address: str, server: Any) -> None:
    written = fill(store)
    bucket = key(address, f"bucket:{bucket_of(pa.array([5]), 4)[0]}")
    flipped = bytearray(written[5])
    flipped[-1] ^= 1
    for damaged, said in ((bytes(flipped), "checksum"), (written[5][:-1], "bytes, expected"), (b"", "0 bytes")):
        server.hset(bucket, "5", damaged)
        for read in (lambda: store.get(pa.array([6, 5])), lambda: list(store.read_all())):
            with pytest.raises(DataError, match=f"memory of user 5 is damaged .*{said}"):
                read()
    server.hset(bucket, "5", written[6])
    with pytest.raises(DataError, match="memory of user 5 is damaged"):
        store.get(pa.array([5]))


def test_a_record_that_a_scan_meets_twice_comes_once(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = fill(store)
    real, client = redis.Redis.hscan, store.client

    def twice(name: str, cursor: int, count: int) -> Any:
        _, rows = real(client, name, 0, count=count)
        return (0 if cursor else 1), rows

    monkeypatch.setattr(client, "hscan", twice)
    assert by_user(store.read_all()) == written


def test_a_writer_that_lost_its_lock_writes_nothing(store: MemoryStore, address: str, server: Any) -> None:
    written = fill(store)
    lock, memories = key(address, "writer"), memories_of(in_bucket(USERS, 0), seed=9)
    with store.writer() as writer:
        for taken in (lambda: server.set(lock, "another", px=60_000), lambda: server.delete(lock)):
            taken()
            for act in (
                lambda: writer.write(0, memories, journal_at(1, 1)),
                lambda: writer.finish(journal_at(2, 0)),
                lambda: writer.delete(5),
                lambda: writer.add_tombstones([b"x" * 16]),
            ):
                with pytest.raises(LockedError, match="this writer lost its lock"):
                    act()
        server.set(lock, "another", px=60_000)
    assert server.get(lock) == b"another", "the lock of another must not be released"
    assert by_user(store.read_all()) == written
    assert store.journal() == journal_at(1, 0)
    assert store.tombstones() == frozenset()


def test_a_lock_taken_between_look_and_commit_is_noticed(
    store: MemoryStore, address: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = fill(store)
    with store.writer() as writer:
        real = redis.client.Pipeline.execute

        def late(pipeline: Any, *arguments: Any) -> Any:
            if pipeline.watching:
                server.set(key(address, "writer"), "another", px=60_000)
            return real(pipeline, *arguments)

        monkeypatch.setattr(redis.client.Pipeline, "execute", late)
        with pytest.raises(LockedError, match="this writer lost its lock"):
            writer.write(0, memories_of(in_bucket(USERS, 0), seed=9), journal_at(1, 1))
        monkeypatch.undo()
    assert by_user(store.read_all()) == written


def test_a_target_made_between_look_and_rename_is_kept(
    store: MemoryStore, address: str, place: Callable[..., str], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, target = fill(store), place("redis", "target")
    real, written = redis.client.Pipeline.multi, []

    def late(pipeline: Any) -> None:
        monkeypatch.undo()
        with create_store(target, FACTS) as made:
            written.append(fill(made, seed=9))
        real(pipeline)

    monkeypatch.setattr(redis.client.Pipeline, "multi", late)
    with pytest.raises(DataError, match=r"name=.*: there is a store here already; open it, or choose another name"):
        RedisStore.publish(address, target)
    with open_store(target) as kept:
        assert [by_user(kept.read_all())] == written
    assert by_user(store.read_all()) == draft


def test_the_lock_is_renewed_and_of_a_killed_writer_ends(
    store: MemoryStore, address: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_store.stores.redis_connection.LOCK_MILLISECONDS", 400)
    lock, times_left = key(address, "writer"), []

    def renewed_thrice() -> bool:
        times_left.append(server.pttl(lock))
        return sum(after > before for before, after in itertools.pairwise(times_left)) >= 3

    with store.writer() as writer:
        until("the lock is renewed", renewed_thrice)
        assert 0 < min(times_left) <= max(times_left) <= 400
        with pytest.raises(LockedError, match="if it was killed, run again in 0 seconds"), store.writer():
            pass
        writer.write(0, memories_of(in_bucket(USERS, 0)), journal_at(0, 1))
    assert server.get(lock) is None
    server.set(lock, "one who was killed", px=200)
    until("the lock ends", lambda: not server.exists(lock))
    with store.writer():
        pass


def test_a_full_server_leaves_the_store_as_it_was(store: MemoryStore, server: Any) -> None:
    written = fill(store)
    told = pytest.raises(DataError, match=r"maxmemory.*raise its maxmemory and run again: all committed steps are kept")
    with store.writer() as writer:
        server.config_set("maxmemory", server.info("memory")["used_memory"] // 2)
        try:
            with told:
                writer.write(0, memories_of(in_bucket(USERS, 0), seed=9), journal_at(1, 1))
        finally:
            server.config_set("maxmemory", 0)
    with store.writer():  # the lock was let go
        pass
    assert by_user(store.read_all()) == written
    assert store.journal() == journal_at(1, 0)


def test_a_server_that_drops_keys_is_refused(store: MemoryStore, place: Callable[..., str], server: Any) -> None:
    server.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(DataError, match="set maxmemory-policy noeviction"), store.writer():
            pass
        with pytest.raises(DataError, match="set maxmemory-policy noeviction"):
            create_store(place("redis", "other"), FACTS)
    finally:
        server.config_set("maxmemory-policy", "noeviction")


def test_a_lost_connection_is_told_and_the_next_one_serves(
    store: MemoryStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = fill(store)
    with store.writer() as writer:
        memories = memories_of(in_bucket(USERS, 0), seed=9)

        def dying(pipeline: Any, *arguments: Any) -> Any:
            if pipeline.watching:  # the write itself, after it looked at the lock
                server.client_kill_filter(_type="normal", skipme=True)
            return real(pipeline, *arguments)

        real = redis.client.Pipeline.execute
        monkeypatch.setattr(redis.client.Pipeline, "execute", dying)
        with pytest.raises(DataError, match=r"Redis at 127.0.0.1:\d+: .*check that it runs there"):
            writer.write(0, memories, journal_at(1, 1))
        monkeypatch.undo()
        assert by_user(store.read_all()) == written
        writer.write(0, memories, journal_at(1, 1))
    assert by_user(store.read_all()) == written | by_user([memories])


def test_no_server_is_told_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for act in (open_store, lambda address: create_store(address, FACTS)):
        with pytest.raises(DataError) as caught:
            act(f"redis://:s3cret@127.0.0.1:{port}/0?name=x")
        message = str(caught.value)
        assert message.startswith(f"redis://127.0.0.1:{port}/0?name=x: Redis at 127.0.0.1:{port}: ")
        assert "check that it runs there" in message
        assert "\n" not in message
        assert "s3cret" not in message


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[int]:
    """A server with a password."""
    with redis_server(tmp_path, "--requirepass", "s3cret@/:#") as port:
        yield port


def test_the_password_is_used_and_never_shown(guarded: int) -> None:
    address = f"redis://:s3cret%40%2F%3A%23@127.0.0.1:{guarded}/1?name=night"
    with create_store(address, FACTS) as store:
        written = fill(store)
        assert "s3cret" not in store.address + repr(store) + repr(vars(store))
        assert store.address == f"redis://127.0.0.1:{guarded}/1?name=night"
    with open_store(address) as store:
        assert by_user(store.read_all()) == written
    for wrong in ("", ":wr0ng@"):
        with pytest.raises(DataError, match="check user and password in the address") as caught:
            open_store(f"redis://{wrong}127.0.0.1:{guarded}/1?name=night")
        assert "wr0ng" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_space_is_measured(store: MemoryStore) -> None:
    empty = store.bytes_on_disk()
    fill(store)
    assert store.bytes_on_disk() > empty + len(USERS) * SCHEMA.bytes_per_user
