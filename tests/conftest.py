"""One thread: these tensors are small, and tests share their cores. And a store of memories of each kind."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.redis_servers import redis_server

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a Redis server of this session's own, which keeps what it is told on disk."""
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as port:
        yield port


@pytest.fixture
def new_store(request: pytest.FixtureRequest) -> Callable[[str, Path], str]:
    """Name a store of a kind where nothing is yet: `new_store("lmdb", tmp_path / "memories")`."""

    def address(kind: str, place: Path) -> str:
        if kind != "redis":
            return f"{kind}:{place}"
        port = request.getfixturevalue("redis_port")
        return f"redis://127.0.0.1:{port}/0?name={uuid.uuid5(uuid.NAMESPACE_URL, str(place)).hex}"

    return address
