"""A build holds a bucket of users in memory, not a log."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.building import fold as memory_fold
from tests.support.nights import build, random_log, write


def test_a_bucket_is_in_memory_at_a_time(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events a log has, a part of it holds about as many as was asked for."""
    path = write(random_log(events=1200, users=60), tmp_path / "log.parquet")
    sizes: list[int] = []
    read = memory_fold.read_user_events

    def counted(*arguments: Any) -> Any:
        events = read(*arguments)
        sizes.append(len(events.time))
        return events

    monkeypatch.setattr(memory_fold, "read_user_events", counted)
    build(model, tmp_path / "memories", path, tmp_path / "out", "--read.events_per_bucket", 100)
    assert len(sizes) == 12
    assert sum(sizes) == 1200
    assert max(sizes) < 400


@pytest.mark.slow
def test_memory_use_does_not_grow_with_the_log(model: Path, tmp_path: Path) -> None:
    """What NumPy holds at most: with parts of 2,000 events it is that of a part, else that of a log."""

    def peak(events: int, events_per_bucket: int) -> int:
        place = tmp_path / f"{events}-{events_per_bucket}"
        log = random_log(events=events)  # in which few users act often: here each acts a hundred times
        users = np.random.default_rng(0).permutation(np.arange(events) // 100)
        path = write(log.set_column(0, "user_id", pa.array(users)), place / "log.parquet")
        tracemalloc.start()
        try:
            build(model, place / "memories", path, place / "out", "--read.events_per_bucket", events_per_bucket)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000, 1000)  # whatever is kept from the first time on
    assert peak(80_000, 2_000) < 2 * peak(10_000, 2_000)
    assert peak(80_000, 10**9) > 4 * peak(10_000, 10**9)
