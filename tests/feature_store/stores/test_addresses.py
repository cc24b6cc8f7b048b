"""Addresses: which store lies where, and what is not one."""

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_store.errors import DataError
from feature_store.stores import create_store, open_store
from feature_store.stores.redis_address import RedisAddress
from feature_store.testing.sample_memories import FACTS


def test_a_plain_path_is_lmdb_when_new_and_else_what_lies_there(tmp_path: Path) -> None:
    with create_store(str(tmp_path / "new"), FACTS) as store:
        assert store.address == f"lmdb:{tmp_path / 'new'}"
    with create_store(f"parquet:{tmp_path / 'snapshots'}", FACTS):
        pass
    for name, kind in (("new", "lmdb"), ("snapshots", "parquet")):
        with open_store(str(tmp_path / name)) as store:
            assert store.address == f"{kind}:{tmp_path / name}"


def test_a_relative_path_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with create_store("./a:b", FACTS) as store:
        assert (tmp_path / "a:b" / "data.mdb").is_file()
        assert store.address == "lmdb:./a:b"


@pytest.mark.parametrize("address", ["s3://bucket/x", "lmbd:memories", "lmdb:", "", "redis:"])
@pytest.mark.parametrize("act", [open_store, lambda address: create_store(address, FACTS)])
def test_what_is_no_address_is_refused(address: str, act: Callable[[str], Any]) -> None:
    with pytest.raises(DataError, match=r"expected .*redis://"):
        act(address)


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for address in (str(tmp_path), f"lmdb:{tmp_path}", f"parquet:{tmp_path}"):
        with pytest.raises(DataError, match="no memories here"):
            open_store(address)
        with pytest.raises(DataError, match="something here already"):
            create_store(address, FACTS)
    for file in (f"lmdb:{tmp_path / 'notes.txt'}", f"parquet:{tmp_path / 'notes.txt'}"):
        with pytest.raises(DataError, match="something here already"):
            create_store(file, FACTS)
    with pytest.raises(DataError, match=r"below: (File exists|Not a directory); check the path"):
        create_store(f"lmdb:{tmp_path / 'notes.txt' / 'below'}", FACTS)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_may_become_a_store(tmp_path: Path) -> None:
    with create_store(f"parquet:{tmp_path}", FACTS), open_store(str(tmp_path)) as store:
        assert store.facts == FACTS


def test_without_redis_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *arguments: Any) -> Any:
        if name == "redis" or name.startswith("redis."):
            raise ModuleNotFoundError(f"No module named {name!r}", name="redis")
        return original(name, *arguments)

    original = builtins.__import__
    for name in ("redis", "redis_connection"):
        monkeypatch.delitem(sys.modules, f"feature_store.stores.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'rm-rec\[redis\]'"):
        open_store("redis://localhost")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("redis://cache", RedisAddress("cache", 6379, 0, "memories")),
        ("redis://cache:7000/3?name=night.v-2_x", RedisAddress("cache", 7000, 3, "night.v-2_x")),
        ("rediss://:p%40ss@[::1]:7000/", RedisAddress("::1", 7000, 0, "memories", True, None, "p@ss")),
        ("redis://me:pass@cache", RedisAddress("cache", 6379, 0, "memories", False, "me", "pass")),
    ],
)
def test_addresses_of_redis(address: str, expected: RedisAddress) -> None:
    parsed = RedisAddress.parse(address)
    assert parsed == expected
    assert RedisAddress.parse(parsed.renamed(parsed.name)) == expected
    assert RedisAddress.parse(parsed.renamed("other")).name == "other"
    public = RedisAddress.parse(parsed.public)
    assert (public.host, public.port, public.database, public.tls) == (
        expected.host,
        expected.port,
        expected.database,
        expected.tls,
    )
    assert public.user is public.password is None


@pytest.mark.parametrize(
    "address",
    [
        "redis://:s3cret@cache/0?name=a b",
        "redis://:s3cret@cache/x",
        "redis://:s3cret@cache/-1",
        "redis://:s3cret@cache:port",
        "redis://:s3cret@cache?nam=x",
        "redis://:s3cret@cache?name=x&name=y",
        "redis://:s3cret@cache?name",
        "redis://:s3cret@cache?name=",
        "redis://:s3cret#x@cache",
        "redis://:s3cret@",
        "redis:///0",
        "redis://:s3cret@[::1",
    ],
)
def test_what_is_no_address_of_redis_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(DataError, match="redis://HOST:PORT/DB\\?name=NAME") as caught:
        RedisAddress.parse(address)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_password_is_not_shown() -> None:
    address = RedisAddress.parse("redis://me:s3cret@cache")
    assert "s3cret" not in repr(address) + address.public + address.server
    with pytest.raises(DataError) as caught:
        open_store("postgres://me:s3cret@cache")
    assert "s3cret" not in str(caught.value)
