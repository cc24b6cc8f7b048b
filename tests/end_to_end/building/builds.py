"""Building memories as a user does: the arguments, what was said, and what was left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.nights import journal
from tests.support.small_runs import Kill, run_forked

NewStore = Callable[[str, Path], str]
WRITE, FINISH = "feature_store.stores.store:StoreWriter.write", "feature_store.stores.store:StoreWriter.finish"


def arguments(model: Path, address: str, log: Path, out: Path, *more: object) -> list[str]:
    argv = ["--model", model, "--memories", address, "--log", log, "--out", out, "--num_buckets", 4, "--threads", 1]
    return [*map(str, [*argv, "--dtype", "float32", *more])]


def left_behind(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*") if path.name.startswith(("building", ".building")))


def counts(address: str) -> dict[str, int]:
    names = ("events", "users", "late", "skipped_deleted", "rebuilt_users")
    return {name: sum(getattr(build, name) for build in journal(address).builds) for name in names}


def late_events(out: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(file) for file in sorted(out.glob("late/*/*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: (row["time"], row["user"]))


def break_off(model: Path, address: str, log: Path, out: Path, *more: object) -> None:
    """Begin a build that is killed after its first bucket."""
    kill = Kill(WRITE, when="after")
    out.parent.mkdir(parents=True, exist_ok=True)
    ended = run_forked(out.parent, "pipelines.build_memory", *arguments(model, address, log, out, *more), kill=kill)
    assert ended.returncode == -9, ended.stderr
