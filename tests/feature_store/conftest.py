"""Logs on disk, and what is made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import prepare
from feature_store.logs.prepared_log import PreparedLog
from feature_store.sequences.user_sequences import UserSequences, load_sequences
from feature_store.vocabulary.vocabularies import Vocabularies
from tests.feature_store.small_logs import silent


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
        prepared = prepare(config, tmp_path / name, notify=silent)
        vocabularies = Vocabularies.fit(prepared, config)
        return (
            prepared,
            vocabularies,
            [load_sequences(prepared, bucket, vocabularies, config) for bucket in prepared.buckets()],
        )

    return from_config
