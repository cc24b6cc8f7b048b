"""Measure how fast a log larger than memory is prepared, and how much memory that takes.

    python benchmarks/prepare_log.py
    python benchmarks/prepare_log.py --events 2000000

Makes a log in a temporary folder, prepares it in a fresh process, and prints one JSON object as its last line.
events_per_core_second counts the process time of all threads, which other work on the machine changes less.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_config import Columns, DataConfig, LabelColumn
from feature_store.logs.preparation import prepare

CHUNK = 1_000_000


def write_log(folder: Path, events: int, seed: int = 0) -> None:
    """Write events in the order in which they happen, all users mixed, one file a million: 300 events a user."""
    draw = np.random.default_rng(seed)
    users, items = max(1, events // 300), 200_000
    for number, first in enumerate(range(0, events, CHUNK)):
        size = min(CHUNK, events - first)
        item = np.minimum(draw.zipf(1.3, size), items) - 1
        table = pa.table(
            {
                "user_id": draw.integers(0, users, size),
                "item_id": item,
                "category_id": item % 500,
                "action": pa.array(np.array(["view", "cart", "buy"])[draw.integers(0, 3, size)]),
                "timestamp": 1_700_000_000 + (first + np.arange(size)) // 20,
                "clicked": draw.integers(0, 2, size, dtype=np.int8),
            }
        )
        pq.write_table(table, folder / f"part-{number:04d}.parquet")


def config_of(folder: Path) -> DataConfig:
    """Describe the log that `write_log` writes."""
    columns = Columns(event_features=("action",), item_features=("category_id",))
    return DataConfig(log=str(folder), columns=columns, impressions=LabelColumn(column="clicked"))


def measure(folder: Path, out: Path) -> None:
    """Prepare the log in this process and print the figures."""
    start, processing = time.perf_counter(), time.process_time()
    prepared = prepare(config_of(folder), out)
    seconds, processing = time.perf_counter() - start, time.process_time() - processing
    per_megabyte = 1024 if sys.platform == "linux" else 1024 * 1024
    figures = {
        "events_per_core_second": round(prepared.manifest.events / processing),
        "events_per_second": round(prepared.manifest.events / seconds),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_megabyte),
        "events": prepared.manifest.events,
        "seconds": round(seconds, 1),
        "process_seconds": round(processing, 1),
    }
    print(json.dumps(figures))


def main() -> None:
    """Make a log and measure its preparation in a process of its own, so that making it does not count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--prepare-only", nargs=2, metavar=("LOG", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare_only:
        measure(*map(Path, arguments.prepare_only))
        return
    with tempfile.TemporaryDirectory() as folder:
        log, out = Path(folder) / "log", Path(folder) / "prepared"
        log.mkdir()
        write_log(log, arguments.events)
        size = sum(file.stat().st_size for file in log.iterdir()) / 2**20
        print(f"made {arguments.events:,} events ({size:,.0f} MB of Parquet)", flush=True)
        command = [sys.executable, __file__, "--prepare-only", str(log), str(out)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
