"""A model to build with, and a store of a first night."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.support.nights import LABELLED, build, random_log, train, write


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows ten items of the fifteen that its logs have."""
    folder = tmp_path_factory.mktemp("model")
    train(random_log(seed=9, items=10), folder, LABELLED)
    return folder / "model"


@pytest.fixture
def two_nights(model: Path, tmp_path: Path) -> Callable[[str], tuple[str, Path]]:
    """Build a store of a first night; return its address and the log of the second, some of whose events are late."""
    log = random_log(seed=1, events=400, users=30)
    first = log.filter(pc.equal(pc.bit_wise_and(log["timestamp"], 31), 0)).slice(0, 40)
    rest = log.filter(pc.invert(pc.is_in(log["timestamp"], first["timestamp"])))
    write(rest.slice(0, 200), tmp_path / "first.parquet")
    second = write(pa.concat_tables([rest.slice(200), first]), tmp_path / "second.parquet")

    def built(address: str) -> tuple[str, Path]:
        build(model, address, tmp_path / "first.parquet", tmp_path / "first-night", "--dtype", "float32")
        return address, second

    return built
