"""Small logs on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.event_log import PreparedLog, prepare
from feature_store.schema import DataConfig
from feature_store.sequences import UserSequences, iterate_sequences
from feature_store.vocabularies import Vocabularies


def silent(line: str) -> None:
    """Report to nobody."""


def random_log(seed: int = 0, users: int = 12, events: int = 40, items: int = 15) -> pa.Table:
    """Users 100…, items 300…, times with ties, a category that belongs to the item, an action, a 0/1 label."""
    draw = np.random.default_rng(seed)
    size = users * events
    item = draw.integers(0, items, size)
    table = pa.table(
        {
            "user_id": 100 + np.repeat(np.arange(users), events),
            "item_id": 300 + item,
            "timestamp": draw.integers(0, 2 * events, size),
            "category": item % 4,
            "action": pa.array(np.array(["view", "buy", "save"])[draw.integers(0, 3, size)]),
            "clicked": draw.integers(0, 2, size),
            "position": draw.integers(0, 5, size),
            "price": draw.random(size).astype(np.float32),
        }
    )
    return table.take(pa.array(draw.permutation(size)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a table (or a dict of columns) as Parquet and name the file."""

    def to_file(table: pa.Table | dict[str, Any], name: str = "log.parquet") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
        return str(path)

    return to_file


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[PreparedLog, Vocabularies, list[UserSequences]]]:
    """Prepare a log, fit its vocabularies and load every bucket."""

    def from_config(
        config: DataConfig, name: str = "prepared"
    ) -> tuple[PreparedLog, Vocabularies, list[UserSequences]]:
        prepared = prepare(config, tmp_path / name, report=silent)
        vocabularies = Vocabularies.fit(prepared, config)
        return prepared, vocabularies, list(iterate_sequences(prepared, vocabularies, config))

    return from_config


def by_user(sequences: list[UserSequences]) -> dict[str, UserSequences]:
    """Take sequences apart: the user's id as text -> the sequences of that user alone."""
    return {
        str(user): part.select(np.array([place]), None, trim=False)
        for part in sequences
        for place, user in enumerate(part.users.to_pylist())
    }


def arrays(sequences: UserSequences) -> dict[str, np.ndarray]:
    """Flatten sequences to named arrays, for comparing."""
    flat = {
        name: getattr(sequences, name)
        for name in ("event_offsets", "event_time", "impression_offsets", "impression_time", "num_earlier", "split")
    }
    flat |= {"label": sequences.label, "dense": sequences.context_dense}
    for group in ("events", "targets", "context", "carried"):
        flat |= {f"{group}:{name}": values for name, values in getattr(sequences, group).items()}
    return flat


def assert_equal(ours: UserSequences, theirs: UserSequences) -> None:
    """Compare everything but the ids."""
    left, right = arrays(ours), arrays(theirs)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
