"""One thread: these tensors are small, and tests share their cores. And a store of memories of each kind."""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a Redis server of this session's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("the program redis-server is not installed here, and a store in Redis needs one (6.2 or newer)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    folder = tmp_path_factory.mktemp("redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log) as server:
        with redis.Redis(port=port) as client:
            for _ in range(200):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
        yield port
        server.terminate()


@pytest.fixture
def new_store(request: pytest.FixtureRequest) -> Callable[[str, Path], str]:
    """Name a store of a kind where nothing is yet: `new_store("lmdb", tmp_path / "memories")`."""

    def address(kind: str, place: Path) -> str:
        if kind != "redis":
            return f"{kind}:{place}"
        port = request.getfixturevalue("redis_port")
        return f"redis://127.0.0.1:{port}/0?name={uuid.uuid5(uuid.NAMESPACE_URL, str(place)).hex}"

    return address
