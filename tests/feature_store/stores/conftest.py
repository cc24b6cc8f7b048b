"""Stores of every kind; Redis is a real server on the loopback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stores import STORES


@pytest.fixture
def place(tmp_path: Path, new_store: Callable[[str, Path], str]) -> Callable[..., str]:
    """Name an address of a kind, where nothing is yet."""
    return lambda kind, name="store": new_store(kind, tmp_path / f"{kind}-{name}")


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    return str(request.param)


@pytest.fixture
def address(kind: str, place: Callable[..., str]) -> str:
    """An address of each kind, where nothing is yet."""
    return place(kind)
