"""The results of a comparison, written to its folder and to MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from feature_store.files import write_json, write_text
from pipelines.comparison import figures
from pipelines.comparison.costs import Cost, kept_costs
from pipelines.comparison.names import REHEARSAL, short_name
from pipelines.comparison.outcomes import FinishedRun, LogOutcomes, measure_log
from pipelines.comparison.tables import report
from pipelines.runs import tracking

COSTS, NUMBERS, REPORT = "costs.json", "comparison.json", "report.md"


@dataclass(frozen=True)
class Results:
    """Results of a comparison on the logs that have finished runs."""

    logs: tuple[LogOutcomes, ...]
    costs: Mapping[str, Cost]
    segment_length: int

    @classmethod
    def measure(
        cls, finished: Mapping[str, Mapping[str, Sequence[FinishedRun]]], resamples: int, cost_rounds: int, out: Path
    ) -> "Results | None":
        """Measure the finished runs of each log's candidates; None if there are none."""
        by_log = {log: {name: runs for name, runs in by_name.items() if runs} for log, by_name in finished.items()}
        by_log = {log: by_name for log, by_name in by_log.items() if by_name}
        if not by_log:
            return None
        settings = {name: runs[0].settings for by_name in reversed(by_log.values()) for name, runs in by_name.items()}
        models = {name: (one.model, one.rehearsal) for name, one in settings.items()}
        return cls(
            logs=tuple(measure_log(log, by_name, resamples) for log, by_name in by_log.items()),
            costs=kept_costs(out / COSTS, models, cost_rounds) if cost_rounds else {},
            segment_length=next(iter(settings.values())).model.segment_length,
        )

    @property
    def num_runs(self) -> int:
        """Count the runs that are in the tables."""
        return sum(len(outcome.test.values) for log in self.logs for outcome in log.outcomes)

    def keep(self, out: Path, baselines: Sequence[str], shown: Sequence[str]) -> str:
        """Write numbers, tables and figures to the folder and to the open MLflow run; return the tables.

        Curves by age and popularity show the candidates `shown`.
        """
        drawn = self._figures([*map(short_name, baselines)], [*map(short_name, shown)])
        for name, figure in drawn.items():
            figure.savefig(out / name)
        text = report(self.logs, self.costs, self.segment_length)
        write_text(out / REPORT, text)
        values = {
            "logs": [asdict(log) for log in self.logs],
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
        }
        write_json(out / NUMBERS, values)
        tracking.log_report(values, drawn, file=NUMBERS, text=text)
        for log in self.logs:
            for outcome in log.outcomes:
                name = f"{log.log}/{outcome.candidate.replace(REHEARSAL, ' with rehearsal')}"  # MLflow does not allow +
                tracking.log_curve(f"{name}/test_auc", {0: outcome.test.mean})
                tracking.log_curve(f"{name}/validation_auc", {0: outcome.validation.mean})
        return text

    def _figures(self, baselines: Sequence[str], shown: Sequence[str]) -> dict[str, Figure]:
        drawn = {"costs.png": figures.costs(self.costs, baselines)} if self.costs else {}
        for log in self.logs:
            drawn[f"auc_{log.log}.png"] = figures.auc_by_candidate(log, baselines)
            drawn[f"age_{log.log}.png"] = figures.auc_by_age(log, shown, baselines, self.segment_length)
            drawn[f"popularity_{log.log}.png"] = figures.auc_by_popularity(log, shown, baselines)
        return drawn
