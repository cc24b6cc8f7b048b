"""How much rehearsal slows training: whole steps with it at its defaults, and without, one after the other.

python benchmarks/rehearsal_cost.py [--batches 15] [--rehearsal JSON]

short   2,000 users x 200 events, dense   1,000 users x 1,000 events; a positive and a negative for each event, items by
Zipf's law, default model and batches of the default size. One thread, process time, medians. The last line is JSON;
its `ratio` is the larger of the two.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from train_speed import make_users, model_of

from pipelines.training.batches import BatchSize, plan_batches, to_batch
from pipelines.training.fit import Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig, TrainingConfig
from rm_rec.config import ModelConfig, RehearsalConfig

SHAPES = {"short": (2_000, 200), "dense": (1_000, 1_000)}


def measure(num_users: int, num_events: int, num_batches: int, rehearsal: RehearsalConfig) -> dict[str, float]:
    """Return the median seconds of a step without and with rehearsal, and of how many times longer it takes."""
    users = make_users(num_users, num_events, "dense", np.random.default_rng(0))
    plan = plan_batches(users, BatchSize(TrainingConfig().batch_events), np.random.default_rng(0))
    learners = {}
    for name, config in (("without", None), ("with", rehearsal)):
        torch.manual_seed(0)
        learner = Learner(model_of(ModelConfig()), config).train()
        learners[name] = learner, build_optimizers(learner, OptimizerConfig())
    random = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for index in range(num_batches + 1):
        for name, (learner, optimizer) in learners.items():
            started = time.process_time()
            batch = to_batch(users.select(plan[index % len(plan)], None))
            training_step(learner, optimizer, batch, OptimizerConfig().clip_norm, random)
            if index:  # the first step allocates the optimiser's state
                seconds[name].append(time.process_time() - started)
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    return {
        **{name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(slow / quick for slow, quick in pairs),
    }


def main() -> None:
    """Measure histories of both lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--rehearsal", default="{}", help="settings of rehearsal other than the defaults, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rehearsal = RehearsalConfig.model_validate_json(arguments.rehearsal)
    found: dict[str, float] = {}
    for name, (num_users, num_events) in SHAPES.items():
        figures = measure(num_users, num_events, arguments.batches, rehearsal)
        print(
            f"{name}: {1e3 * figures['without']:.0f} ms a step without, {1e3 * figures['with']:.0f} ms with rehearsal: "
            f"{figures['ratio']:.2f} times"
        )
        found[f"ratio_{name}"] = round(figures["ratio"], 3)
    print(json.dumps({"ratio": max(found.values()), **found}))


if __name__ == "__main__":
    main()
