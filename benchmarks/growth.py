"""What an event costs as histories, vocabularies and logs grow: all lines should be flat.

python benchmarks/growth.py [--out growth.png] [--users 1000 10000 100000]

train   a training step of the default model, one impression a user: cost of an event of the batch
fold    folding events into memories, tensors in memory
build   the whole job from a Parquet log to an LMDB store: reading, sorting, folding, writing; 300 events a user

by      events of a history (1,000 to 100,000), rows of the item table (10,000 to 5,000,000), or users of the log.
        Batches have 65,536 events or one user. One thread of PyTorch; process time, DuckDB's threads included; medians.

Draws the lines, and prints one JSON object as its last line: for each line the largest cost over that of the smallest
size, and `largest_ratio`, the largest of these.
"""

# ruff: noqa: E402 - torch reads how to allocate when it is imported
from pipelines.runs.allocator import keep_freed_memory

keep_freed_memory()

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from serving_model import DAY, START, make_model, write_log

from feature_store.stores import StoreFacts, create_store
from pipelines.build_memory import BuildMemory
from pipelines.build_memory.job import build_all
from pipelines.building.plan import event_source
from pipelines.evaluation.figures.style import COLOURS, dress, new_figure
from pipelines.models.memory_records import memory_schema
from pipelines.training.fit import Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig
from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.histories import Histories
from rm_rec.model import ClickModel

HISTORIES, ROWS = (1_000, 10_000, 100_000), (10_000, 100_000, 1_000_000, 5_000_000)
BATCH_EVENTS = 65_536
ROUNDS = 9
LABELS = {"history": "events of a history", "rows": "rows of the item table", "users": "users of the log"}
FLAT = 1.3


def batches(num_rows: int, num_events: int) -> Iterator[UserBatch]:
    """Yield batches of users with so many events and one impression each; items by Zipf's law."""
    draw = np.random.default_rng(0)
    users = max(1, BATCH_EVENTS // num_events)
    # Spread over the table: ids that are frequent are not beside each other.
    spread = torch.from_numpy(draw.permutation(num_rows))
    while True:
        items = spread[torch.from_numpy(draw.zipf(1.2, users * (num_events + 1)) % num_rows)]
        yield UserBatch(
            event_lengths=torch.full((users,), num_events),
            event_time=torch.arange(num_events).repeat(users) * 3600,
            events={"item": items[users:]},
            impression_lengths=torch.ones(users, dtype=torch.int64),
            impression_time=torch.full((users,), num_events * 3600),
            num_earlier=torch.full((users,), num_events),
            targets={"item": items[:users]},
            context={},
            context_dense=torch.zeros(users, 0),
            label=(torch.arange(users) % 2).float(),
        )


def nanoseconds(work: Callable[[], object], events: int) -> float:
    """Measure some work's process time for each event."""
    started = time.process_time()
    work()
    return 1e9 * (time.process_time() - started) / events


def train_and_fold(num_rows: int, num_events: int) -> dict[str, float]:
    """Return the nanoseconds of an event in training and folding."""
    torch.manual_seed(0)
    features = FeatureSpace(rows={"item": num_rows}, events=("item",), targets=("item",))
    learner = Learner(ClickModel(ModelConfig(), features), None).train()
    optimizers, random = build_optimizers(learner, OptimizerConfig()), torch.Generator().manual_seed(0)
    drawn = batches(num_rows, num_events)

    def train(batch: UserBatch) -> float:
        return nanoseconds(lambda: training_step(learner, optimizers, batch, 1.0, random), len(batch.event_time))

    def fold(batch: UserBatch) -> float:
        histories = Histories(lengths=batch.event_lengths, time=batch.event_time, keys=batch.events)
        with torch.inference_mode():
            memories = learner.model.no_memories(batch.num_users)
            return nanoseconds(lambda: learner.model.fold(memories, histories), len(batch.event_time))

    costs = {"train": [train(next(drawn)) for _ in range(ROUNDS + 2)]}
    learner.eval()
    costs["fold"] = [fold(next(drawn)) for _ in range(ROUNDS + 2)]
    return {name: statistics.median(values[2:]) for name, values in costs.items()}  # the first two allocate


def build(num_users: int, events: int = 300) -> float:
    """Return the nanoseconds of an event in a whole build."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained = make_model(folder / "model")
        write_log(folder / "log.parquet", np.arange(num_users), events, START, 365 * DAY)
        schema = memory_schema(trained.model.memory, trained.model.features.events, "float16", "int64")
        assert trained.card.memory_space is not None
        facts = StoreFacts(space_id=trained.card.memory_space, memory=schema, num_buckets=64)
        store = create_store(str(folder / "memories"), facts)
        settings = BuildMemory(
            model="model", memories=store.address, log=str(folder / "log.parquet"), out=str(folder / "out")
        )
        source = event_source(settings.log)
        cost = nanoseconds(
            lambda: build_all(settings, trained, source, store, notify=lambda line: None), num_users * events
        )
        store.close()
    return cost


def draw(lines: dict[str, dict[str, dict[int, float]]]) -> Figure:
    """Draw the costs, relative to the smallest size, by what grows."""
    figure = new_figure(3.6)
    for axes, (grows, costs) in zip(
        np.atleast_1d(figure.subplots(1, len(lines), sharey=True)), lines.items(), strict=True
    ):
        for colour, (name, by_size) in zip(COLOURS, costs.items(), strict=False):
            sizes, values = list(by_size), np.array(list(by_size.values()))
            axes.plot(sizes, values / values[0], "o-", color=colour, label=name)
        axes.set_xscale("log")
        axes.axhspan(1 / FLAT, FLAT, color="#eeeeee", zorder=0)
        axes.set_ylim(0, 2)
        dress(axes, "", LABELS[grows], "cost of an event, relative" if grows == next(iter(lines)) else "")
        axes.legend(frameon=False)
    return figure


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("growth.png"))
    parser.add_argument("--histories", type=int, nargs="*", default=HISTORIES)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--users", type=int, nargs="*", default=(1_000, 10_000, 100_000))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines: dict[str, dict[str, dict[int, float]]] = {}
    for grows, sizes in (("history", arguments.histories), ("rows", arguments.rows)):
        for size in sizes:
            rows, events = (100_000, size) if grows == "history" else (size, 1_000)
            for name, cost in train_and_fold(rows, events).items():
                lines.setdefault(grows, {}).setdefault(name, {})[size] = cost
                print(f"{name:6} {size:>10,} {LABELS[grows]:24} {cost:8,.0f} ns an event", flush=True)
    for size in arguments.users:
        lines.setdefault("users", {}).setdefault("build", {})[size] = cost = build(size)
        print(f"build  {size:>10,} {LABELS['users']:24} {cost:8,.0f} ns an event", flush=True)
    if lines:
        draw(lines).savefig(arguments.out)
    ratios = {
        f"{name}_by_{grows}": round(max(by_size.values()) / next(iter(by_size.values())), 2)
        for grows, costs in lines.items()
        for name, by_size in costs.items()
    }
    print(json.dumps(ratios | {"largest_ratio": max(ratios.values(), default=0.0)}))


if __name__ == "__main__":
    main()
