"""The LMDB store: what its file can suffer, and what LMDB itself refuses."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
import pytest

from feature_store.errors import DataError
from feature_store.stores import MemoryStore, StoreFacts, bucket_of, create_store, open_store
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
from tests.feature_store.stores.child_processes import in_child

WIDE = SCHEMA.model_copy(update={"state": {"sum": (30, 32), "count": (3,)}})
TEXT = FACTS.model_copy(update={"memory": SCHEMA.model_copy(update={"user_type": "string"})})


def data(store: MemoryStore | str) -> Path:
    address = store if isinstance(store, str) else store.address
    return Path(address.removeprefix("lmdb:")) / "data.mdb"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"lmdb:{tmp_path / 'store'}"


def test_a_damaged_byte_is_found_and_its_user_named(address: str) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store)
    raw = bytearray(data(address).read_bytes())
    start = raw.index(written[5])
    raw[start + 30] ^= 1
    data(address).write_bytes(raw)
    with open_store(address) as store:
        for read in (lambda: store.get(pa.array([6, 5])), lambda: list(store.read_all())):
            with pytest.raises(DataError, match=r"lmdb:.*store: memory of user 5 is damaged \(checksum"):
                read()
        assert store.get(pa.array([6, 7]))[1].all()
        with store.writer() as writer:  # such a user can be written anew
            users = in_bucket(USERS, int(bucket_of(pa.array([5]), 4)[0]))
            writer.write(int(bucket_of(users, 4)[0]), memories_of(users), journal_at(1, 1))
        assert store.get(USERS)[1].all()


def test_an_id_that_is_too_long_is_refused(address: str) -> None:
    longest = "x" * 509
    with create_store(address, TEXT) as store:
        written = fill(store, pa.array([longest]))
        assert by_user(store.read_all()) == written
        users = pa.array(["é" * 255])  # 510 bytes
        bucket = int(bucket_of(users, 4)[0])
        with store.writer() as writer, pytest.raises(DataError, match="longer than the 509 bytes that LMDB allows"):
            writer.write(bucket, memories_of(users, schema=TEXT.memory), journal_at(1, 1))
        assert store.journal() == journal_at(1, 0)


def test_a_process_opens_a_store_once(address: str) -> None:
    with create_store(address, FACTS), pytest.raises(DataError, match=r"this process has it open already.*close it"):
        open_store(address)
    open_store(address).close()


def test_a_full_disk_leaves_the_store_as_it_was(address: str) -> None:
    facts = FACTS.model_copy(update={"memory": WIDE})
    with create_store(address, facts) as store:
        written = fill(store)

    def write_much() -> str:
        size = data(address).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, size + 20_000))
        with open_store(address) as store, store.writer() as writer:
            users = in_bucket(pa.array(range(10_000)), 0)
            try:
                writer.write(0, memories_of(users, schema=WIDE), journal_at(1, 1))
            except DataError as error:
                assert by_user(store.read_all()) == written  # the very process goes on reading
                assert store.journal() == journal_at(1, 0)
                return str(error)
        return "written"

    said = in_child(write_much)
    assert said.startswith(f"{address}: ")
    assert said.endswith("free disk space and run again: all committed steps are kept")
    with open_store(address) as store:
        assert by_user(store.read_all()) == written
        newer = fill(store, seed=3, build=1)
        assert by_user(store.read_all()) == newer


def test_a_store_at_its_largest_size_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_store.stores.lmdb.MAP_SIZE", 1 << 20)
    with create_store(address, FACTS.model_copy(update={"memory": WIDE})) as store:
        written = fill(store)
        with pytest.raises(DataError, match="the store is full: it has its largest size, 1,048,576 bytes"):
            fill(store, pa.array(range(1000)), build=1)
        assert by_user(store.read_all()) == written


def test_pages_are_used_again(address: str) -> None:
    with create_store(address, FACTS.model_copy(update={"memory": WIDE})) as store:
        fill(store, pa.array(range(500)))
        once = store.bytes_on_disk()
        for build in range(1, 6):
            fill(store, pa.array(range(500)), seed=build, build=build)
        assert store.bytes_on_disk() < 2.5 * once


def test_a_scan_reads_one_moment(address: str) -> None:
    with create_store(address, FACTS) as store:
        before = fill(store)
        reading = store.read_all()
        parts = [next(reading)]
        fill(store, seed=9, build=1)
        assert by_user([*parts, *reading]) == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: b"\xff" * 8192 + raw[8192:], "not a store of memories, or damaged"),
        (lambda raw: b"hello", "not a store of memories, or damaged"),
        (lambda raw: raw[: len(raw) // 3], "was truncated"),
    ],
)
def test_a_damaged_file_is_refused(address: str, damage: Any, said: str) -> None:
    with create_store(address, FACTS.model_copy(update={"memory": WIDE})) as store:
        fill(store, pa.array(range(1000)))
    data(address).write_bytes(damage(data(address).read_bytes()))
    with pytest.raises(DataError, match=said) as caught:
        open_store(address)
    assert "\n" not in str(caught.value)


def test_a_foreign_lmdb_file_is_refused(address: str) -> None:
    folder = Path(address.removeprefix("lmdb:"))
    with lmdb.open(str(folder), max_dbs=2) as foreign, foreign.begin(write=True) as transaction:
        transaction.put(b"theirs", b"x")
    with pytest.raises(DataError, match="not a store of memories"):
        open_store(address)
    with pytest.raises(DataError, match="something here already"):
        create_store(address, FACTS)
    with lmdb.open(str(folder)) as foreign, foreign.begin() as transaction:
        assert transaction.get(b"theirs") == b"x"


def test_another_format_is_refused(address: str) -> None:
    create_store(address, FACTS).close()

    def put(key: bytes, value: bytes | None) -> None:
        with lmdb.open(str(data(address).parent), max_dbs=3) as environment:
            meta = environment.open_db(b"meta")
            with environment.begin(write=True, db=meta) as transaction:
                transaction.delete(key) if value is None else transaction.put(key, value)

    newer = StoreFacts(**(FACTS.model_dump() | {"format_version": 2}))
    for value, said in (
        (newer.model_dump_json().encode(), "format 2, this version reads 1"),
        (b"{}", "written by another version"),
        (None, "damaged .no facts."),
    ):
        put(b"facts", value)
        with pytest.raises(DataError, match=said):
            open_store(address)
    put(b"facts", FACTS.model_dump_json().encode())
    put(b"journal", b"{")
    with open_store(address) as store, pytest.raises(DataError, match="damaged"):
        store.journal()


def test_a_store_on_a_read_only_disk_is_read_and_not_written(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with create_store(address, FACTS) as store:
        written = fill(store)
    real = lmdb.open

    def refusing(path: str, **named: Any) -> Any:
        if not named["readonly"]:
            error = lmdb.Error(path)
            error.code = errno.EROFS  # type: ignore[misc]  # the module sets it where it raises one
            raise error
        return real(path, **named)

    monkeypatch.setattr(lmdb, "open", refusing)
    with open_store(address) as store:
        assert by_user(store.read_all()) == written
        with pytest.raises(DataError, match="right to read and write"), store.writer():
            pass


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_what_may_not_be_read_is_told(tmp_path: Path, kind: str) -> None:
    address = f"{kind}:{tmp_path / 'store'}"
    create_store(address, FACTS).close()
    (tmp_path / "store").chmod(0)

    def read_as_nobody(what: str) -> None:
        if os.getuid() == 0:  # whom no permission holds back
            os.setuid(65_534)
        open_store(what)

    try:
        for what in (address, str(tmp_path / "store")):
            assert "Permission denied; give the user who runs this the right" in in_child(read_as_nobody, what)
    finally:
        (tmp_path / "store").chmod(0o700)
