"""The work of `pipelines.compare_machines`, imported once its settings are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from feature_store.datasets.settings import SyntheticConfig
from pipelines.cli import resolved
from pipelines.cli.job import DONE, FAILED, result_console
from pipelines.compare_machines import CompareMachines
from pipelines.comparison.candidates import SYNTHETIC, check_names, log_file
from pipelines.comparison.names import REHEARSAL, short_name
from pipelines.comparison.outcomes import FinishedRun
from pipelines.comparison.plan import Plan, Trial
from pipelines.comparison.results import NUMBERS, REPORT, Results
from pipelines.comparison.run_grid import RunGrid
from pipelines.make_log.job import write_log
from pipelines.runs import tracking

QUICK = {
    "logs": ("quickstart",),
    "logs_of_best": (),
    "learning_rates": (0.003,),
    "seeds": 2,
    "epochs": 1,
    "cost_rounds": 1,
}
QUICK_LOG, QUICK_FILE = SyntheticConfig(users=40, events_per_user=200), "quick.parquet"


def run(settings: CompareMachines) -> int:
    """Train and measure what is not finished, and write the report; return the exit code."""
    if settings.quick:
        settings = settings.model_copy(update=QUICK)
    console = result_console()
    data, out = Path(settings.data), Path(settings.out)
    logs = (*settings.logs, *settings.logs_of_best)
    allowed = [f"--allow_package={','.join(settings.allow_package)}"] if settings.allow_package else []
    check_names(logs, settings.trained, data, out, settings.state_bytes, allowed)
    synthetic = out / (QUICK_FILE if settings.quick else SYNTHETIC)
    paths = {log: synthetic if settings.quick else log_file(log, data, out) for log in logs}
    if settings.jobs and synthetic in paths.values() and not synthetic.exists():
        write_log(QUICK_LOG if settings.quick else SyntheticConfig(), synthetic)
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
    num_due = settings.seeds * sum(map(len, finished.values()))
    if results.num_runs < num_due:
        missing = num_due - results.num_runs
        console.print(f"{missing} of {num_due} runs are not finished: the same command resumes them.")
        return FAILED
    return DONE


@final
class Comparison:
    """The runs of a comparison, in the order in which they are due."""

    def __init__(self, settings: CompareMachines, plan: Plan, grid: RunGrid) -> None:
        self.settings, self.plan, self.grid = settings, plan, grid
        self.metrics: dict[str, Any] = {}

    def train(self) -> None:
        """Tune on `logs` and train all seeds there; then the best on the other logs; then the rehearsed candidates."""
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
        due = {**dict.fromkeys(settings.logs, settings.trained), **dict.fromkeys(settings.logs_of_best, self.shown)}
        runs: dict[str, dict[str, list[FinishedRun]]] = {
            short_name(log): {short_name(name): [] for name in names} for log, names in due.items()
        }
        for trial in trials:
            if trial.name in self.metrics:
                run = FinishedRun(self.plan.settings(trial), self.metrics[trial.name], self.grid.folder(trial.name))
                runs[short_name(trial.log)][short_name(trial.candidate)].append(run)
        return runs

    def _run(self, trials: Sequence[Trial]) -> None:
        self.metrics |= self.grid.run(self.plan.runs(trials), self.settings.jobs)
