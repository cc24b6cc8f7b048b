"""Train memory machines side by side on the same logs, at the same size and with the same tuning, and report.

python -m pipelines.compare_machines --data FOLDER --out runs/compare --jobs 2
python -m pipelines.compare_machines --quick --out runs/quick
"""

import sys
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from feature_store.datasets.synthetic import SyntheticConfig
from feature_store.schema import Strict
from pipelines.comparison.candidates import REHEARSAL, SYNTHETIC, check_names, log_file
from pipelines.comparison.plan import Plan
from pipelines.job import DONE, run_job
from pipelines.make_log import write_log
from pipelines.run_grid import RunGrid
from pipelines.settings import load_settings
from pipelines.tracking import TrackingConfig
from rm_rec.machines import MACHINES

BASELINES = ("window_only", "mean_pool", "din_50", "din_full")
REHEARSED = ("associative", "rehearsal", "learned_queries", "rum", "hpmn", "ntm", "dnc", "mimn")
MEMORIES = (
    *(kind for kind in MACHINES if kind != "mean_pool"),
    *("memn2n", "memnn", "tommy"),
)


class CompareMachines(Strict):
    """What is compared, and how."""

    data: str = "data"
    """Folder of the logs that the recipes name; the synthetic log is made where it is not there."""
    logs: tuple[str, ...] = Field(("delicious_tags", "quickstart"), min_length=1)
    """Recipes on whose logs every candidate is trained: names in pipelines/recipes, or YAML files."""
    logs_of_best: tuple[str, ...] = ("foursquare_nyc", "wikipedia_edits", "assistments2017", "movielens")
    """Recipes on whose logs the best candidates and the baselines are trained."""
    num_best: int = Field(5, ge=1)
    """How many are best: by the mean rank of their validation AUC on `logs`."""
    baselines: tuple[str, ...] = BASELINES
    """Trained on every log."""
    candidates: tuple[str, ...] = Field(MEMORIES, min_length=1)
    """Kinds of machines, names in pipelines/recipes/models, or YAML files; trained without the rehearsal loss."""
    rehearsed: tuple[str, ...] = REHEARSED
    """Candidates that are trained with the rehearsal loss too, at the learning rate chosen without."""
    state_bytes: int = Field(2048, ge=1)
    """Every machine gets as many slots as a state of this size holds, in float16."""
    learning_rates: tuple[float, ...] = Field((0.003, 0.006), min_length=1)
    """Of the network: each candidate tries them all on each log with its first seed; validation AUC chooses."""
    seeds: int = Field(3, ge=1)
    """Of weights, batches and training's negatives; held-out impressions are the same for all."""
    epochs: int = Field(4, ge=1)
    """At most this many, for all alike."""
    quick: bool = False
    """A small made log, one epoch, two seeds, one learning rate: whether everything runs; its figures mean nothing."""
    jobs: int = Field(1, ge=0)
    """Runs at a time, of one thread each; 0 only reports what is finished."""
    tracking: TrackingConfig = TrackingConfig(experiment="compare-machines")
    out: str = "runs/compare_machines"
    """Folder of all runs and of the report; a comparison that was killed goes on from it."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for names in ((*self.logs, *self.logs_of_best), (*self.baselines, *self.candidates), self.rehearsed):
            if len(set(names)) < len(names):
                raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is named twice")
        return self


QUICK = {"logs": ("quickstart",), "logs_of_best": (), "learning_rates": (0.003,), "seeds": 2, "epochs": 1}
QUICK_LOG = SyntheticConfig(users=40, events_per_user=200)


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        CompareMachines,
        argv,
        prog="python -m pipelines.compare_machines",
        description="Train memory machines side by side, at the same size and with the same tuning, and report.",
        examples=(
            "python -m pipelines.compare_machines --data logs --out runs/compare --jobs 2",
            "python -m pipelines.compare_machines --data logs --logs movielens --candidates ntm,dnc --out runs/two",
            "python -m pipelines.compare_machines --quick --out runs/quick",
        ),
    )
    if settings.quick:
        settings = settings.model_copy(update=QUICK)
    everyone = (*settings.baselines, *settings.candidates)
    rehearsed = tuple(f"{name}{REHEARSAL}" for name in settings.rehearsed if name in everyone)
    data, out = Path(settings.data), Path(settings.out)
    logs = (*settings.logs, *settings.logs_of_best)
    check_names(logs, everyone, data, out, settings.state_bytes)
    paths = {log: log_file(log, data, out) for log in logs}
    made = out / SYNTHETIC
    if made in paths.values() and not made.exists():
        write_log(QUICK_LOG if settings.quick else SyntheticConfig(), made)
    plan = Plan(
        paths,
        settings.learning_rates,
        settings.seeds,
        settings.state_bytes,
        ("--training.epochs", str(settings.epochs), "--metrics.resamples", "0"),
    )
    grid = RunGrid(out, settings.tracking)
    found = grid.run(plan.runs(plan.tuning(settings.logs, everyone)), settings.jobs)
    found |= grid.run(plan.runs(plan.seeds(settings.logs, (*everyone, *rehearsed), found)), settings.jobs)
    if settings.logs_of_best:
        best = plan.best(settings.logs, settings.candidates, found, settings.num_best)
        chosen = (*settings.baselines, *best)
        found |= grid.run(plan.runs(plan.tuning(settings.logs_of_best, chosen)), settings.jobs)
        found |= grid.run(plan.runs(plan.seeds(settings.logs_of_best, chosen, found)), settings.jobs)
    sys.stdout.write(f"{len(found)} runs\n")
    return DONE


if __name__ == "__main__":
    run_job(main)
