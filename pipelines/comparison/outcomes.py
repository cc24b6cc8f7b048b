"""Results of each candidate on a log: AUC over its seeds, within users, by age of the signal and by popularity.

All candidates are measured on the same impressions. A value is the mean of the seeds. Its interval is by bootstrap over
users, with the same resamples for all candidates, so that the interval of a difference is a paired one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_config import SPLITS
from pipelines.errors import RunError
from pipelines.evaluation.predictions import align, numbers, user_codes
from pipelines.evaluation.retention import events_since_items
from pipelines.evaluation.settings import DECIDING_AGE, PredictionColumns
from pipelines.train_ctr import TrainCtr
from pipelines.training.data import TEST, LogData
from rm_rec.evaluation.bins import AGE_BINS
from rm_rec.evaluation.by_age import NEVER, ages_in_segments, ranking_by_age
from rm_rec.evaluation.metrics import auc
from rm_rec.evaluation.report import Estimate, bootstrap, bucket_names, bucket_of, interval, shortest_of
from rm_rec.machines import build_machine
from rm_rec.machines.sizes import state_bytes

POPULARITY_BINS = (0, 1, 10, 100, 1000)  # smallest number of training events on an item, of each bin
_COLUMNS = PredictionColumns()


@dataclass(frozen=True)
class Seeds:
    """One value for each seed, in the order of the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean of the seeds."""
        return mean(self.values)

    @property
    def spread(self) -> float:
        """Return half of the range of the seeds."""
        return (max(self.values) - min(self.values)) / 2


@dataclass(frozen=True)
class Outcome:
    """Results of one candidate on one log; AUCs are of the test split, except `validation`."""

    candidate: str
    learning_rate: float
    """The learning rate that was best on validation."""
    state_bytes: int
    """Bytes of one user's state, in float16 (float32 for parts that must be exact)."""
    seeds: tuple[int, ...]
    """The seeds that are finished, in the order of the values of all `Seeds` here."""
    best_epochs: tuple[int, ...]
    """The epoch of each seed that was best on validation."""
    validation: Seeds
    test: Seeds
    test_interval: tuple[float | None, float | None]
    """95 % interval of the seeds' mean over users."""
    gain: Estimate
    """Gain over the first candidate of the log, on the same users: mean of the seeds and its 95 % interval."""
    grouped: Seeds | None
    """AUC within each user, weighted by the user's impressions; None if no user has both clicks and non-clicks."""
    by_age: Mapping[str, Seeds]
    """AUC by the age, in segments, of the deciding event or of the user's last event on the item; "never": no event."""
    by_popularity: Mapping[str, Seeds]
    """AUC by the number of training events on the impression's item."""


@dataclass(frozen=True)
class LogOutcomes:
    """All candidates on one log."""

    log: str
    impressions: int
    users: int
    known_age: bool
    """Whether the log says which event decides a click; else a bin's AUC is of its clicks against all non-clicks."""
    rows_by_age: Mapping[str, int]
    rows_by_popularity: Mapping[str, int]
    best_possible: float | None
    """The AUC of the true click probabilities, on a synthetic log."""
    outcomes: tuple[Outcome, ...]
    """Gains are over the first."""


@dataclass(frozen=True)
class FinishedRun:
    """A run of one seed: its settings, its metrics (metrics.json) and its folder."""

    settings: TrainCtr
    metrics: Mapping[str, Any]
    folder: Path


def measure_log(log: str, candidates: Mapping[str, Sequence[FinishedRun]], resamples: int) -> LogOutcomes:
    """Measure the runs of every candidate, one for each seed; gains are over the first candidate."""
    first = next(iter(candidates.values()))[0]
    reference = _test_rows(first)
    data = LogData.prepare(first.settings.data, first.folder / "prepared", notify=lambda line: None)
    rows = _Rows.of(reference, data, first.settings.model.segment_length)
    resampled: dict[str, np.ndarray] = {}
    outcomes: list[Outcome] = []
    for name, runs in candidates.items():
        measured = [rows.measure(_predictions(reference, run), resamples) for run in runs]
        resampled[name] = np.mean([one.resampled for one in measured], axis=0)
        test = Seeds(tuple(one.auc for one in measured))
        value = test.mean - outcomes[0].test.mean if outcomes else 0.0
        gains = resampled[name] - resampled[next(iter(candidates))]
        machine = build_machine(runs[0].settings.model.machine, runs[0].settings.model.token_dim)
        outcomes.append(
            Outcome(
                candidate=name,
                learning_rate=runs[0].settings.optimizer.lr,
                state_bytes=0 if machine is None else state_bytes(machine),
                seeds=tuple(run.settings.training.seed for run in runs),
                best_epochs=tuple(int(run.metrics["best_epoch"]) for run in runs),
                validation=Seeds(tuple(float(run.metrics["validation"]["auc"]) for run in runs)),
                test=test,
                test_interval=interval(resampled[name], test.mean),
                gain=Estimate(value, *interval(gains, value)),
                grouped=_grouped(runs),
                by_age=_over_seeds([one.by_age for one in measured]),
                by_popularity=_over_seeds([one.by_popularity for one in measured]),
            )
        )
    return LogOutcomes(
        log=log,
        impressions=len(rows.labels),
        users=len(np.unique(rows.users)),
        known_age=rows.known_age,
        rows_by_age=rows.rows_by_age(),
        rows_by_popularity=_rows_by_bin(rows.popularity, POPULARITY_BINS),
        best_possible=None if rows.true_probabilities is None else auc(rows.labels, rows.true_probabilities),
        outcomes=tuple(outcomes),
    )


@dataclass(frozen=True)
class _Measured:
    auc: float
    resampled: np.ndarray
    by_age: dict[str, float]
    by_popularity: dict[str, float]


@dataclass(frozen=True)
class _Rows:
    """The test impressions, which all candidates share."""

    labels: np.ndarray
    users: np.ndarray
    ages: np.ndarray  # in segments
    known_age: bool
    popularity: np.ndarray
    true_probabilities: np.ndarray | None

    @classmethod
    def of(cls, table: pa.Table, data: LogData, segment_length: int) -> "_Rows":
        name = "predictions.parquet"
        known_age = DECIDING_AGE in table.column_names
        events_ago = table[DECIDING_AGE].to_numpy().astype(np.int64) if known_age else events_since_items(data, table)
        counts = np.append(data.vocabularies.item_counts, 0)  # the last: of items that training has not seen
        has_probabilities = _COLUMNS.true_probability in table.column_names
        return cls(
            labels=numbers(table, _COLUMNS.label, name),
            users=user_codes(table, _COLUMNS.user, name),
            ages=ages_in_segments(table[_COLUMNS.history_length].to_numpy(), events_ago, segment_length),
            known_age=known_age,
            popularity=counts[data.vocabularies.item_index(table[_COLUMNS.item])],
            true_probabilities=numbers(table, _COLUMNS.true_probability, name) if has_probabilities else None,
        )

    def measure(self, predictions: np.ndarray, resamples: int) -> _Measured:
        value = auc(self.labels, predictions)
        assert value is not None  # a split of one class is refused before training
        ranking = ranking_by_age(self.labels, predictions, self.users, self.ages, known_age=self.known_age, resamples=0)
        points = dict(ranking.by_age) | ({} if ranking.never is None else {"never": ranking.never})
        bins = bucket_of(self.popularity, POPULARITY_BINS)
        by_popularity = {
            name: auc(self.labels[bins == index], predictions[bins == index])
            for index, name in enumerate(bucket_names(POPULARITY_BINS))
            if (bins == index).any()
        }
        return _Measured(
            auc=value,
            resampled=bootstrap(self.labels, predictions, self.users, resamples=resamples, seed=0)["auc"],
            by_age=_defined({name: point.estimate.value for name, point in points.items()}),
            by_popularity=_defined(by_popularity),
        )

    def rows_by_age(self) -> dict[str, int]:
        counted = self.ages if self.known_age else self.ages[self.labels > 0]
        never = int((counted == NEVER).sum())
        return _rows_by_bin(counted, AGE_BINS) | ({"never": never} if never else {})


def _test_rows(run: FinishedRun) -> pa.Table:
    return pq.read_table(run.folder / "predictions.parquet", filters=[(_COLUMNS.split, "=", SPLITS[TEST])])


def _predictions(reference: pa.Table, run: FinishedRun) -> np.ndarray:
    aligned = align(reference, _test_rows(run), _COLUMNS)
    if isinstance(aligned, str):
        raise RunError(f"{run.folder}: its test impressions are not those of the others: {aligned}; delete the folder")
    if not aligned[0].equals(reference):
        raise RunError(f"{run.folder}: its test impressions are in another order; delete the folder")
    return numbers(aligned[1], _COLUMNS.prediction, str(run.folder))


def _grouped(runs: Sequence[FinishedRun]) -> Seeds | None:
    values = [run.metrics["test"]["grouped_auc"] for run in runs]
    return None if None in values else Seeds(tuple(map(float, values)))


def _over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, Seeds]:
    return {name: Seeds(tuple(run[name] for run in runs if name in run)) for name in runs[0]}


def sorted_bins(names: Iterable[str]) -> list[str]:
    """Return names of bins, the youngest or smallest first, "never" last."""
    return sorted(names, key=lambda name: (name == "never", 0 if name == "never" else shortest_of(name)))


def _rows_by_bin(values: np.ndarray, bins: Sequence[int]) -> dict[str, int]:
    bin_of = bucket_of(values, bins)
    counts = {name: int((bin_of == index).sum()) for index, name in enumerate(bucket_names(bins))}
    return {name: count for name, count in counts.items() if count}


def _defined(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
