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
_COMMAND = "command.json"


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
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 0 only reports those that are finished")
    parser.add_argument("--seeds", type=int, default=seeds, help="at most this many")


def run_all(runs: Sequence[TrainingRun], data: Path, out: Path, jobs: int) -> dict[TrainingRun, dict[str, Any]]:
    """Do what is not finished yet, in order; return the metrics of each run that did not fail."""
    out = out.resolve()
    if not jobs:
        commands = {run: _command(run, data, out) for run in runs}
        return {run: _metrics(run, out) for run, command in commands.items() if _is_finished(run, out, command)}
    out.mkdir(parents=True, exist_ok=True)
    if any(run.recipe == MADE for run in runs) and not _log(MADE, data, out).exists():
        make = [sys.executable, "-m", "pipelines.make_log", "--out", str(_log(MADE, data, out))]
        subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    # Two runs at once would both create the database, and one of them fail.
    mlflow.MlflowClient(_tracking_uri(out)).search_experiments()
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(lambda run: _run(run, _command(run, data, out), out), runs)
        return {run: _metrics(run, out) for run, succeeded in zip(runs, done, strict=True) if succeeded}


def _run(run: TrainingRun, command: list[str], out: Path) -> bool:
    """Do one run, unless it is finished; say whether it is now."""
    if _is_finished(run, out, command):
        return True
    folder = _folder(run, out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _COMMAND).write_text(json.dumps(command))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as text:
        ended = subprocess.run(
            [sys.executable, *command], stdout=text, stderr=subprocess.STDOUT, env=environment, check=False
        )
    result = "done" if ended.returncode == 0 else f"FAILED, see {folder / 'log.txt'}"
    print(f"{run.recipe} {run.name} seed {run.seed}: {result}", flush=True)
    return ended.returncode == 0


def _command(run: TrainingRun, data: Path, out: Path) -> list[str]:
    """Return the arguments of a run's Python: what it is known by."""
    command = ["-m", "pipelines.train_ctr", "--config", str(RECIPES / f"{run.recipe}.yaml"), *run.settings]
    command += ["--data.log", str(_log(run.recipe, data, out)), "--data.seed", str(run.seed)]
    command += ["--out", str(_folder(run, out)), "--training.seed", str(run.seed), "--training.threads", "1"]
    command += ["--tracking.uri", _tracking_uri(out), "--tracking.experiment", f"{out.name}-{run.recipe}"]
    return [*command, "--tracking.register_as", "null"]


def _is_finished(run: TrainingRun, out: Path, command: list[str]) -> bool:
    folder = _folder(run, out)
    asked = folder / _COMMAND
    return (folder / "metrics.json").exists() and asked.exists() and json.loads(asked.read_text()) == command


def _metrics(run: TrainingRun, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_folder(run, out) / "metrics.json").read_text())
    return found


def _folder(run: TrainingRun, out: Path) -> Path:
    return out / run.recipe / f"{run.name}-{run.seed}"


def _log(recipe: str, data: Path, out: Path) -> Path:
    return out / "synthetic.parquet" if recipe == MADE else data / f"{recipe}.parquet"


def _tracking_uri(out: Path) -> str:
    return f"sqlite:///{out}/mlflow.db"


def mean_and_spread(values: Sequence[float]) -> str:
    """Write the mean of several seeds, plus and minus half of their range; of one seed, its value."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"
