"""One thread a process: tensors are small, and tests share their cores. What tests of several folders are given."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support import acme as acme_package
from tests.support.redis_servers import redis_server

torch.set_num_threads(1)
# Of processes that tests start, too; and nothing is told to anybody.
os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make one MLflow database for all tests of a process: its tables take seconds. A test takes names of its own."""
    from mlflow import MlflowClient  # slow, and most tests need none

    folder = tmp_path_factory.mktemp("tracking")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with contextlib.chdir(folder):  # where MLflow makes the folder of artifacts
        MlflowClient(uri).search_experiments()
    return uri


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


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Put the package acme_memory where it can be imported, and tell whether it was."""
    monkeypatch.syspath_prepend(str(acme_package.OUTSIDE))
    acme_package.forget()
    yield acme_package.was_imported
    acme_package.forget()


@pytest.fixture
def forget_acme() -> Callable[[], None]:
    """Make it as if acme_memory had never been imported."""
    return acme_package.forget
