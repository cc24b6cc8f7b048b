"""Training runs side by side, each `python -m pipelines.train_ctr` with one thread in a folder of its own.

Killed, they go on where they were; finished by the same command, they are not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "pipelines" / "recipes"
MADE = "quickstart"  # the recipe whose log is made, not given


@dataclass(frozen=True)
class TrainingRun:
    """One run: a recipe, what is laid over it, and a seed of weights, batches and negatives."""

    recipe: str
    name: str
    seed: int
    settings: tuple[str, ...]
    """Arguments of train_ctr, after the recipe's."""


def add_arguments(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Give a benchmark the arguments that all such benchmarks have."""
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME.parquet for each recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=seeds, help="at most this many")


def run_all(runs: Sequence[TrainingRun], data: Path, out: Path, jobs: int) -> dict[TrainingRun, dict[str, Any]]:
    """Do what is not finished yet, in order; return the metrics of each run that did not fail."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    made = out / "synthetic.parquet"
    if not made.exists() and any(run.recipe == MADE for run in runs):
        make = [sys.executable, "-m", "pipelines.make_log", "--out", str(made)]
        subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    # Two runs at once would both create the database, and one of them fail.
    mlflow.MlflowClient(_tracking_uri(out)).search_experiments()

    def one(run: TrainingRun) -> dict[str, Any] | None:
        return _run(run, made if run.recipe == MADE else data / f"{run.recipe}.parquet", out)

    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(runs, pool.map(one, runs), strict=True))
    return {run: metrics for run, metrics in found.items() if metrics is not None}


def _run(run: TrainingRun, log: Path, out: Path) -> dict[str, Any] | None:
    folder = out / run.recipe / f"{run.name}-{run.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["-m", "pipelines.train_ctr", "--config", str(RECIPES / f"{run.recipe}.yaml"), *run.settings]
    command += ["--data.log", str(log), "--data.seed", str(run.seed), "--out", str(folder)]
    command += ["--training.seed", str(run.seed), "--training.threads", "1"]
    command += ["--tracking.uri", _tracking_uri(out), "--tracking.experiment", f"{out.name}-{run.recipe}"]
    command += ["--tracking.register_as", "null"]
    metrics, asked = folder / "metrics.json", folder / "command.json"
    if not (metrics.exists() and asked.exists() and json.loads(asked.read_text()) == command):
        asked.write_text(json.dumps(command))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (folder / "log.txt").open("a") as text:
            ended = subprocess.run(
                [sys.executable, *command], stdout=text, stderr=subprocess.STDOUT, env=environment, check=False
            )
        result = "done" if ended.returncode == 0 else f"FAILED, see {folder / 'log.txt'}"
        print(f"{run.recipe} {run.name} seed {run.seed}: {result}", flush=True)
        if ended.returncode:
            return None
    found: dict[str, Any] = json.loads(metrics.read_text())
    return found


def _tracking_uri(out: Path) -> str:
    return f"sqlite:///{out}/mlflow.db"


def mean_and_spread(values: Sequence[float]) -> str:
    """Write the mean of several seeds, plus and minus half of their range."""
    return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"
