"""Stores of every kind; Redis is a real server of its own on the loopback."""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

KINDS = ("lmdb", "parquet", "redis")


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a Redis server that keeps what it is told on disk."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("the program redis-server is not installed here, and a store in Redis needs one (6.2 or newer)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    with (folder / "log").open("w") as log, subprocess.Popen([*command, "--save", ""], stdout=log) as server:
        client = redis.Redis(port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.close()
        yield port
        server.terminate()


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
