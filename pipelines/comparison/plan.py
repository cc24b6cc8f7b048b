"""The runs of a comparison: each candidate tries the same learning rates, then is trained with the same seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, final

from pipelines.comparison.candidates import candidate
from pipelines.comparison.names import REHEARSAL, short_name
from pipelines.train_ctr import TrainCtr

Metrics = Mapping[str, Mapping[str, Any]]  # name of a run -> its metrics.json


@dataclass(frozen=True)
class Trial:
    """A candidate on a log, with one learning rate and one seed of weights, batches and training's negatives."""

    log: str
    candidate: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Return the run's name, which is its folder too."""
        return f"{short_name(self.log)}/{short_name(self.candidate)}/lr-{self.learning_rate:g}-seed-{self.seed}"


@final
class Plan:
    """Trials of candidates on logs; the held-out impressions, negatives included, are the same for all."""

    def __init__(
        self,
        log_paths: Mapping[str, Any],
        learning_rates: Sequence[float],
        num_seeds: int,
        state_bytes: int,
        arguments: Sequence[str],
    ) -> None:
        self._log_paths, self._state_bytes, self._arguments = log_paths, state_bytes, arguments
        self._learning_rates, self._num_seeds = learning_rates, num_seeds

    def settings(self, trial: Trial) -> TrainCtr:
        """Return the settings of a trial's training run."""
        overrides = ["--optimizer.lr", repr(trial.learning_rate), "--training.seed", str(trial.seed)]
        path = self._log_paths[trial.log]
        return candidate(trial.candidate, trial.log, path, self._state_bytes, [*self._arguments, *overrides])

    def runs(self, trials: Iterable[Trial]) -> dict[str, TrainCtr]:
        """Return the settings of trials' training runs by the trials' names."""
        return {trial.name: self.settings(trial) for trial in trials}

    def tuning(self, logs: Iterable[str], candidates: Iterable[str]) -> list[Trial]:
        """Return the trials of tuning: every learning rate with the first seed."""
        names = list(candidates)
        return [Trial(log, name, rate, 0) for rate in self._learning_rates for log in logs for name in names]

    def chosen(self, log: str, name: str, metrics: Metrics) -> float | None:
        """Return the learning rate that is best on a log's validation split; None until all have been tried.

        A rehearsed candidate has the learning rate that is best without rehearsal, so that nothing else differs.
        """
        tried = self.tuning([log], [name.removesuffix(REHEARSAL)])
        if any(trial.name not in metrics for trial in tried):
            return None
        return max(tried, key=lambda trial: validation_auc(metrics[trial.name])).learning_rate

    def seeds(self, logs: Iterable[str], candidates: Iterable[str], metrics: Metrics) -> list[Trial]:
        """Return all seeds of all candidates that are tuned on the log, ordered by seed: tables are complete early."""
        names = list(candidates)
        rates = {(log, name): self.chosen(log, name, metrics) for log in logs for name in names}
        return [
            Trial(log, name, rate, seed)
            for seed in range(self._num_seeds)
            for (log, name), rate in rates.items()
            if rate is not None
        ]

    def best(self, logs: Sequence[str], candidates: Iterable[str], metrics: Metrics, count: int) -> list[str]:
        """Return the candidates that are best on validation, by the mean of their ranks on these logs.

        A candidate without runs on one of the logs is left out, also from the ranks of the others.
        """
        scores = {
            log: {
                name: mean(validation_auc(metrics[trial.name]) for trial in trials)
                for name in candidates
                if (trials := [trial for trial in self.seeds([log], [name], metrics) if trial.name in metrics])
            }
            for log in logs
        }
        everywhere = [name for name in candidates if all(name in scores[log] for log in logs)]
        ranks = {
            name: sum(scores[log][other] > scores[log][name] for log in logs for other in everywhere)
            for name in everywhere
        }
        return sorted(everywhere, key=lambda name: ranks[name])[:count]


def validation_auc(metrics: Mapping[str, Any]) -> float:
    """Return the metric that candidates are chosen by; the test split plays no part."""
    return float(metrics["validation"]["auc"])
