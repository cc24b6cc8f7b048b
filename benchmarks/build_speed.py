"""How fast memories are built from a log in Parquet, and what a day's increment costs beside a full build.

python benchmarks/build_speed.py [--users 20000] [--events 1000] [--daily_events 20] [--active USERS]
python benchmarks/build_speed.py --users 200000 --events 20 --active 1000

Users with so many events each are built into a new LMDB store; then one day's events of a twentieth of the users, or of
as many as given, are added (increment_seconds). One thread of PyTorch; process time of the whole job, DuckDB's threads
included: reading, checking and sorting the log, ids to rows, folding, writing. matmul_fraction: the floating-point
operations of the fold's matrix products, over what the machine's 512 x 512 float32 product reaches in the same run. The
last line is JSON.
"""

# ruff: noqa: E402 - torch reads how to allocate when it is imported
from pipelines.runs.allocator import keep_freed_memory

keep_freed_memory()

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from serving_model import DAY, START, make_model, write_log

from feature_store.stores import StoreFacts, create_store
from pipelines.build_memory import BuildMemory
from pipelines.build_memory.job import build_all
from pipelines.building.plan import event_source
from pipelines.models.artifact import TrainedModel
from pipelines.models.memory_records import memory_schema
from rm_rec.histories import Histories

ACTIVE_SHARE = 0.05  # 10,000 active users of 200,000


def seconds_of(work: Callable[[], object]) -> float:
    """Measure the process time of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def matmul_rate() -> float:
    """Measure the machine's floating-point operations a second, in a matrix product that suits it."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    seconds = sorted(seconds_of(lambda: torch.mm(a, b)) for _ in range(200))
    return 2 * 512**3 / seconds[100]


def operations_of_an_event(trained: TrainedModel) -> int:
    """Count the floating-point operations of the matrix products that fold one event: key, value, address, sum."""
    machine = trained.card.model.machine
    assert machine.kind == "associative"
    token_dim, slots, dim = trained.card.model.token_dim, machine.num_slots, machine.slot_dim
    return 2 * (2 * token_dim * dim + dim * slots + slots * (dim + 1))


def fold_rate(trained: TrainedModel, events: int) -> float:
    """Measure the events a second of the fold alone: 64 users at once, tensors in memory."""
    model = trained.model
    ids = torch.randint(0, model.features.rows["item"], (64 * events,))
    given = Histories(lengths=torch.full((64,), events), time=torch.arange(events).repeat(64) * 60, keys={"item": ids})
    with torch.inference_mode():
        seconds = sorted(seconds_of(lambda: model.fold(model.no_memories(64), given)) for _ in range(11))
    return 64 * events / seconds[5]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--daily_events", type=int, default=20)
    parser.add_argument("--active", type=int, help="users with events on the day; default: a twentieth")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained = make_model(folder / "model")
        users = np.arange(arguments.users)
        active = users[: arguments.active or max(1, int(ACTIVE_SHARE * arguments.users))]
        write_log(folder / "history.parquet", users, arguments.events, START, 365 * DAY)
        write_log(folder / "day.parquet", active, arguments.daily_events, START + 365 * DAY, DAY)
        schema = memory_schema(trained.model.memory, trained.model.features.events, "float16", "int64")
        assert trained.card.memory_space is not None
        store = create_store(
            str(folder / "memories"),
            StoreFacts(space_id=trained.card.memory_space, memory=schema, num_buckets=64),
        )

        def build(log: str) -> float:
            settings = BuildMemory(
                model="model", memories=store.address, log=str(folder / log), out=str(folder / "out")
            )
            return seconds_of(
                lambda: build_all(settings, trained, event_source(settings.log), store, notify=lambda line: None)
            )

        full, day = build("history.parquet"), build("day.parquet")
        figures = {
            "events_per_core_second": round(len(users) * arguments.events / full),
            "matmul_fraction": 0.0,
            "increment_fraction": round(day / full, 4),
            "full_seconds": round(full, 1),
            "increment_seconds": round(day, 2),
            "fold_alone_events_per_core_second": round(fold_rate(trained, arguments.events)),
            "matmul_gflops": round(matmul_rate() / 1e9, 1),
            "bytes_per_user": schema.bytes_per_user,
            "bytes_on_disk_per_user": round(store.bytes_on_disk() / store.count()),
        }
        done = operations_of_an_event(trained) * figures["events_per_core_second"]
        figures["matmul_fraction"] = round(done / (figures["matmul_gflops"] * 1e9), 4)
        store.close()
    for name, value in figures.items():
        print(f"{name:36} {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
