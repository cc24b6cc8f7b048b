"""Train memory machines side by side on the same logs, at the same size and with the same tuning, and report.

python -m pipelines.compare_machines --data FOLDER --out runs/compare --jobs 2
python -m pipelines.compare_machines --quick --out runs/quick
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, final

from pydantic import AfterValidator, Field, model_validator

from feature_store.datasets.synthetic import SyntheticConfig
from pipelines.cli import load_settings, resolved
from pipelines.cli.job import DONE, FAILED, result_console, run_job
from pipelines.comparison.candidates import REHEARSAL, SYNTHETIC, check_names, current_name, log_file, short_name
from pipelines.comparison.outcomes import FinishedRun
from pipelines.comparison.plan import Plan, Trial
from pipelines.comparison.results import NUMBERS, REPORT, Results
from pipelines.comparison.run_grid import RunGrid
from pipelines.make_log import write_log
from pipelines.runs import tracking
from pipelines.runs.tracking import TrackingConfig
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName
from rm_rec.machines import MACHINES

_NAME = re.compile(r"[\w .-]+")  # of a run's folder, and of what MLflow keeps
BASELINES = ("window_only", "mean_pool", "din_50", "din_full")
REHEARSED = ("associative", "slot_gru", "learned_queries", "rum", "ntm", "mimn", "dnc", "hpmn")
CandidateName = Annotated[str, AfterValidator(current_name)]
MEMORIES = (
    *(kind for kind in MACHINES if kind != "mean_pool"),
    *("memn2n", "memnn", "tommy"),
)


class CompareMachines(Settings):
    """What is compared, and how."""

    data: str = "data"
    """Folder of the logs that the recipes name; the synthetic log is made where it is not there."""
    logs: tuple[str, ...] = Field(("delicious_tags", "quickstart"), min_length=1)
    """Recipes on whose logs every candidate is trained: names in pipelines/recipes, or YAML files."""
    logs_of_best: tuple[str, ...] = ("foursquare_nyc", "wikipedia_edits", "movielens", "assistments2017")
    """Recipes on whose logs the best candidates and the baselines are trained."""
    num_best: int = Field(5, ge=1)
    """How many are best: by the mean rank of their validation AUC on `logs`."""
    baselines: tuple[CandidateName, ...] = BASELINES
    """Trained on every log."""
    candidates: tuple[CandidateName, ...] = Field(MEMORIES, min_length=1)
    """Kinds of machines, package.module:Class among them, names in pipelines/recipes/models, or YAML files; trained
    without the rehearsal loss."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages of other people whose code candidates may use, such as the candidate acme.machines:Fading."""
    rehearsed: tuple[CandidateName, ...] = REHEARSED
    """Candidates that are trained with the rehearsal loss too, at the learning rate chosen without."""
    state_bytes: int = Field(2048, ge=1)
    """Every machine gets as many slots as a state of this size holds, in float16."""
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field((0.003, 0.006), min_length=1)
    """Of the network: on each log each candidate tries them all with its first seed; validation AUC chooses."""
    seeds: int = Field(3, ge=1)
    """Of weights, batches and training's negatives; held-out impressions are the same for all."""
    epochs: int = Field(4, ge=1)
    """At most this many, for all alike."""
    quick: bool = False
    """A small made log, one epoch, two seeds, one learning rate: whether everything runs; its figures mean nothing."""
    resamples: int = Field(200, ge=0)
    """Times the users are drawn anew for the intervals; 0 leaves intervals out."""
    cost_rounds: int = Field(5, ge=0)
    """Times that each model's writing, reading and training are timed, in turns; 0 leaves costs out."""
    jobs: int = Field(1, ge=0)
    """Runs at a time, of one thread each; 0 only reports what is finished."""
    tracking: TrackingConfig = TrackingConfig(experiment="compare-machines")
    out: str = "runs/compare_machines"
    """Folder of all runs and of the report; a comparison that was killed goes on from it."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Return all that is trained on each of `logs`: baselines, candidates, and what is rehearsed of them."""
        plain = (*self.baselines, *self.candidates)
        return (*plain, *(f"{name}{REHEARSAL}" for name in self.rehearsed if name in plain))

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        trained, rates = (*self.baselines, *self.candidates), tuple(f"{rate:g}" for rate in self.learning_rates)
        for names in ((*self.logs, *self.logs_of_best), trained, self.rehearsed, rates):
            folders = [*map(short_name, names)]
            odd = [folder for folder in folders if not _NAME.fullmatch(folder.removesuffix(REHEARSAL))]
            if odd:
                raise ValueError(f"{odd[0]!r} names a folder and figures: letters, digits, spaces and _ . - make names")
            twice = [folder for folder in folders if folders.count(folder) > 1]
            if twice:
                raise ValueError(f"{twice[0]} is named twice")
        return self

    @model_validator(mode="after")
    def _rehearsed_beside_the_same_without(self) -> Self:
        trained = (*self.baselines, *self.candidates)
        for name in trained:
            if name.endswith(REHEARSAL):
                plain = name.removesuffix(REHEARSAL)
                raise ValueError(f"{name}: give {plain} in candidates, and in rehearsed too: both are trained")
        if "rehearsed" in self.model_fields_set:  # the default names more than a user may have left
            unknown = [name for name in self.rehearsed if name not in trained]
            if unknown:
                raise ValueError(f"rehearsed: {unknown[0]} is no candidate; expected some of {', '.join(trained)}")
        return self


QUICK = {
    "logs": ("quickstart",),
    "logs_of_best": (),
    "learning_rates": (0.003,),
    "seeds": 2,
    "epochs": 1,
    "cost_rounds": 1,
}
QUICK_LOG, QUICK_FILE = SyntheticConfig(users=40, events_per_user=200), "quick.parquet"


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
    console = result_console()
    data, out = Path(settings.data), Path(settings.out)
    logs = (*settings.logs, *settings.logs_of_best)
    allowed = [f"--allow_package={','.join(settings.allow_package)}"] if settings.allow_package else []
    check_names(logs, settings.trained, data, out, settings.state_bytes, allowed)
    made = out / (QUICK_FILE if settings.quick else SYNTHETIC)
    paths = {log: made if settings.quick else log_file(log, data, out) for log in logs}
    if settings.jobs and made in paths.values() and not made.exists():
        write_log(QUICK_LOG if settings.quick else SyntheticConfig(), made)
    arguments = [*allowed, "--training.epochs", str(settings.epochs), "--metrics.resamples", "0"]
    arguments += ["--training.min_batches", "5"] if settings.quick else []
    plan = Plan(paths, settings.learning_rates, settings.seeds, settings.state_bytes, arguments)
    comparison = Comparison(settings, plan, RunGrid(out, settings.tracking))
    comparison.train()
    finished = comparison.finished()
    results = Results.measure(finished, settings.resamples, settings.cost_rounds, out)
    if results is None:
        console.print(f"No candidate is tuned yet; the runs are in {out}.")
        return FAILED
    with tracking.tracked_run(settings.tracking, out, resolved(settings), {}):
        console.print(results.keep(out, settings.baselines, comparison.shown))
    console.print(f"Wrote {out / REPORT}, {NUMBERS} and the figures.")
    asked = settings.seeds * sum(map(len, finished.values()))
    if results.num_runs < asked:
        missing = asked - results.num_runs
        console.print(f"{missing} of {asked} runs are not finished: the same command goes on with them.")
        return FAILED
    return DONE


@final
class Comparison:
    """The runs of a comparison, in the order in which they are due."""

    def __init__(self, settings: CompareMachines, plan: Plan, grid: RunGrid) -> None:
        self.settings, self.plan, self.grid = settings, plan, grid
        self.metrics: dict[str, Any] = {}

    def train(self) -> None:
        """Tune on `logs`, then all seeds there; then the best on the other logs alike; then what is rehearsed."""
        logs, plain = self.settings.logs, (*self.settings.baselines, *self.settings.candidates)
        self._run(self.plan.tuning(logs, plain))
        self._run(self.plan.seeds(logs, plain, self.metrics))
        self._run(self.plan.tuning(self.settings.logs_of_best, self.shown))
        self._run(self.plan.seeds(self.settings.logs_of_best, self.shown, self.metrics))
        rehearsed = [name for name in self.settings.trained if name.endswith(REHEARSAL)]
        self._run(self.plan.seeds(logs, rehearsed, self.metrics))

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the baselines and the best candidates."""
        settings = self.settings
        best = self.plan.best(settings.logs, settings.candidates, self.metrics, settings.num_best)
        return (*settings.baselines, *best)

    def finished(self) -> dict[str, dict[str, list[FinishedRun]]]:
        """Return the finished runs of each log's candidates, at the learning rate that was chosen."""
        settings = self.settings
        trials = [
            *self.plan.seeds(settings.logs, settings.trained, self.metrics),
            *self.plan.seeds(settings.logs_of_best, self.shown, self.metrics),
        ]
        asked = {**dict.fromkeys(settings.logs, settings.trained), **dict.fromkeys(settings.logs_of_best, self.shown)}
        found: dict[str, dict[str, list[FinishedRun]]] = {
            short_name(log): {short_name(name): [] for name in names} for log, names in asked.items()
        }
        for trial in trials:
            if trial.name in self.metrics:
                run = FinishedRun(self.plan.settings(trial), self.metrics[trial.name], self.grid.folder(trial.name))
                found[short_name(trial.log)][short_name(trial.candidate)].append(run)
        return found

    def _run(self, trials: Sequence[Trial]) -> None:
        self.metrics |= self.grid.run(self.plan.runs(trials), self.settings.jobs)


if __name__ == "__main__":
    run_job(main)
