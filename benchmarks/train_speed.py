"""How many impressions a second one core trains on: the default model and DIN-full, by how many a user has.

python benchmarks/train_speed.py [--users 5000] [--events 1000] [--batches 9] [--profile]

dense   next-event training: a positive and a negative for each event, 2,000 impressions a user
sparse  50 impressions a user, at random moments
single  one impression a user, at the end

5,000 users x 1,000 events, token dimension 32, items by Zipf's law. One thread; process time of whole training steps:
making the batch, forward, backward, optimiser. The figure is the median over batches. The last line is JSON.
"""

# ruff: noqa: E402 - torch reads how to allocate when it is imported
from pipelines.runs.allocator import keep_freed_memory

keep_freed_memory()

import argparse
import json
import statistics
import time

import numpy as np
import pyarrow as pa
import torch

from feature_store.sequences.user_sequences import UserSequences
from pipelines.training.batches import BatchSize, plan_batches, to_batch
from pipelines.training.fit import Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig, TrainingConfig
from rm_rec.config import FeatureSpace, ModelConfig, WholeHistory
from rm_rec.config.machines import NoMachine
from rm_rec.model import ClickModel

NUM_ITEMS, NUM_CATEGORIES = 100_000, 1_000
MODELS = {
    "default": ModelConfig(),
    "din_full": ModelConfig(machine=NoMachine(), window=WholeHistory()),
}
# Events of a batch: what each model trains fastest with. DIN-full's attention is queries x events of each user.
BATCH_EVENTS = {"default": 16_000, "din_full": 4_000}


def make_users(num_users: int, num_events: int, impressions: str, generator: np.random.Generator) -> UserSequences:
    """Make users with random events, and impressions placed as the name says."""
    if impressions == "dense":
        num_earlier = np.tile(np.repeat(np.arange(num_events), 2), (num_users, 1))
    elif impressions == "sparse":
        num_earlier = np.sort(generator.integers(0, num_events, (num_users, 50)), axis=1)
    else:
        num_earlier = np.full((num_users, 1), num_events)
    num_impressions = num_earlier.size
    items = generator.zipf(1.2, num_users * num_events + num_impressions) % NUM_ITEMS
    event_items, target_items = items[: num_users * num_events], items[num_users * num_events :]
    return UserSequences(
        users=pa.array(np.arange(num_users)),
        event_offsets=np.arange(num_users + 1) * num_events,
        event_time=np.tile(np.arange(num_events) * 3600, num_users),
        events={"item": event_items, "category": event_items % NUM_CATEGORIES},
        impression_offsets=np.arange(num_users + 1) * num_earlier.shape[1],
        impression_time=num_earlier.ravel() * 3600,
        num_earlier=num_earlier.ravel(),
        split=np.zeros(num_impressions, np.int8),
        label=np.tile([1.0, 0.0], num_impressions)[:num_impressions].astype(np.float32),
        item=pa.array(target_items),
        targets={"item": target_items, "category": target_items % NUM_CATEGORIES},
        context={},
        context_dense=np.zeros((num_impressions, 0), np.float32),
        carried={},
    )


def model_of(config: ModelConfig) -> ClickModel:
    """Make a model of the users' features."""
    features = FeatureSpace(
        rows={"item": NUM_ITEMS, "category": NUM_CATEGORIES},
        events=("item", "category"),
        targets=("item", "category"),
    )
    return ClickModel(config, features)


def batch_size(name: str) -> BatchSize:
    """Return a model's size of batches."""
    return BatchSize.of(BATCH_EVENTS[name], TrainingConfig().batch_impressions, total_events=10**9, min_batches=100)


def measure(name: str, users: UserSequences, num_batches: int, profile: bool) -> float:
    """Return the median of impressions a second of process time, over whole training steps."""
    torch.manual_seed(0)
    learner = Learner(model_of(MODELS[name]), None).train()
    optimizer = build_optimizers(learner, OptimizerConfig())
    random = torch.Generator().manual_seed(0)
    plan = plan_batches(users, batch_size(name), np.random.default_rng(0))

    def step(index: int) -> int:
        batch = to_batch(users.select(plan[index % len(plan)], None))
        training_step(learner, optimizer, batch, 1.0, random)
        return len(batch.label)

    step(0)  # the first step allocates the optimiser's state
    if profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            step(1)
        events = profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:8]:
            print(f"    {event.self_cpu_time_total / total:5.1%}  {event.key} ({event.count} calls)")
    rates = []
    for index in range(num_batches):
        started = time.process_time()
        num_impressions = step(index)
        rates.append(num_impressions / (time.process_time() - started))
    return statistics.median(rates)


def main() -> None:
    """Measure every model on every kind of impressions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=9, help="batches timed, of each model and kind")
    parser.add_argument("--profile", action="store_true", help="print the operators that take most time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(__doc__)
    figures: dict[str, float] = {}
    for kind in ("dense", "sparse", "single"):
        users = make_users(arguments.users, arguments.events, kind, np.random.default_rng(0))
        for name in MODELS:
            key = kind if name == "default" else f"{kind}_{name}"
            print(f"{key}: {arguments.users:,} users x {arguments.events:,} events", flush=True)
            rate = measure(name, users, arguments.batches, arguments.profile)
            figures[key] = round(rate, 1)
            print(f"    {rate:,.0f} impressions per core-second", flush=True)
    print(json.dumps(figures | {"users": arguments.users, "events": arguments.events}))


if __name__ == "__main__":
    main()
