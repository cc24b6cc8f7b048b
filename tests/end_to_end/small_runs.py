"""Settings under which a training run is made of little but starting up, and how commands are started."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "pipelines" / "recipes"
SMALL_LOG = (
    *("--log.users", "40", "--log.events_per_user", "60", "--log.items", "60", "--log.categories", "20"),
    *("--log.early_interests", "5", "--log.recent_interests", "3"),
)
# Small enough that a run is made of starting up; one thread, so that sums are in one order.
SMALL_MODEL = (
    *("--model.token_dim", "8", "--model.segment_length", "8", "--model.machine.num_slots", "4"),
    *("--model.machine.slot_dim", "8", "--training.threads", "1", "--training.batch_events", "512"),
    *("--metrics.resamples", "5"),
)

Ended = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """Return what a job sees: this checkout's packages, and nothing that a terminal would set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "TERM")}
    return kept | {"PYTHONPATH": str(ROOT)}


def command(module: str, *arguments: object) -> list[str]:
    """Return what starts a job as a process of its own."""
    return [sys.executable, "-m", module, *map(str, arguments)]
