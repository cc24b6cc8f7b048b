"""Stores of every kind; Redis is a real server of its own on the loopback."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis_servers import redis_server

KINDS = ("lmdb", "parquet", "redis")


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a Redis server that keeps what it is told on disk."""
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as port:
        yield port


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Name an address of a kind, where nothing is yet."""

    def named(kind: str, name: str = "store") -> str:
        if kind != "redis":
            return f"{kind}:{tmp_path / (kind + '-' + name)}"
        port = request.getfixturevalue("redis_port")
        return f"redis://127.0.0.1:{port}/0?name={uuid.uuid5(uuid.NAMESPACE_URL, f'{tmp_path}/{name}')}"

    return named


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    return str(request.param)


@pytest.fixture
def address(kind: str, place: Callable[..., str]) -> str:
    """An address of each kind, where nothing is yet."""
    return place(kind)
