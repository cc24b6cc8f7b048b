"""Reports on a model's predictions: all metrics with intervals, overall and by history length.

Intervals come from resampling users rather than rows, since a user's impressions are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from rm_rec.evaluation import metrics
from rm_rec.evaluation.bins import HISTORY_BUCKETS

LOWER_IS_BETTER = ("logloss", "normalised_entropy")
_COVERED = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval over resampled users; None if it is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scores:
    """All metrics of one set of rows."""

    rows: int
    users: int
    base_rate: float
    """Fraction of the rows that are clicks."""
    auc: Estimate
    grouped_auc_by_impressions: Estimate
    """Mean AUC of single users, weighted by their impressions."""
    grouped_auc_by_user: Estimate
    """Mean AUC of single users, not weighted."""
    users_left_out: int
    """Number of users with one class only, who have no AUC."""
    logloss: Estimate
    """Mean negative log-likelihood per row, in nats."""
    normalised_entropy: Estimate
    """Logloss divided by the entropy of the base rate (He et al. 2014)."""
    calibration_ratio: float | None
    """Predicted clicks divided by actual clicks."""
    calibration_error: float
    """Expected calibration error, with bins of about equal size."""


@dataclass(frozen=True)
class Report:
    """The evaluation of one model's predictions."""

    overall: Scores
    by_history: Mapping[str, Scores]
    """Scores of the rows with this history length, in events; empty if lengths are not known."""
    best_possible_auc: float | None
    """The AUC of the true click probabilities on these rows, if they are known."""
    resamples: int
    """Number of times that users were resampled for the intervals."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two models on the same rows, with users resampled jointly."""

    metric: str
    value: float | None
    """The second model's metric minus the first's."""
    low: float | None
    high: float | None
    share_better: float | None
    """Fraction of the resamples in which the second model is strictly better; 0.5 is chance."""


def bootstrap(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Float[np.ndarray, " resample"]]:
    """Draw users with replacement `resamples` times, and return each metric of each draw; NaN if undefined.

    The same users and seed give the same draws, so that two models' values of a draw can be subtracted. Rows are sorted
    once; each draw takes one pass. Source: Efron and Tibshirani 1993, with users as the resampled units.
    """
    ranking = metrics.Ranking(labels, predictions)
    user = metrics.user_positions(users, len(labels))
    user_sorted = user[ranking.order]
    inside = metrics.user_auc(labels, predictions, users)
    counted = np.isfinite(inside.auc)
    user_value = np.where(counted, inside.auc, 0.0)
    rows_counted = inside.num_rows * counted
    losses = np.bincount(user, weights=metrics.row_losses(labels, predictions))
    clicks = np.bincount(user, weights=labels.astype(np.float64))
    generator = np.random.default_rng(seed)
    num_users = len(inside.auc)
    names = ("auc", "grouped_auc_by_impressions", "grouped_auc_by_user", "logloss", "normalised_entropy")
    drawn = {name: np.full(resamples, np.nan) for name in names}
    for draw in range(resamples):
        times = np.bincount(generator.integers(0, num_users, num_users), minlength=num_users).astype(np.float64)
        area = ranking.auc_of_sorted(times[user_sorted])
        drawn["auc"][draw] = np.nan if area is None else area
        rows = times @ inside.num_rows
        for name, weights in (
            ("grouped_auc_by_impressions", times * rows_counted),
            ("grouped_auc_by_user", times * counted),
        ):
            if weights.any():
                drawn[name][draw] = weights @ user_value / weights.sum()
        drawn["logloss"][draw] = times @ losses / rows
        rate = times @ clicks / rows
        if 0 < rate < 1:
            drawn["normalised_entropy"][draw] = drawn["logloss"][draw] / metrics.entropy(rate)
    return drawn


def score(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    resamples: int = 200,
    seed: int = 0,
    num_bins: int = 20,
) -> Scores:
    """Return all metrics of one set of rows; intervals are None if `resamples` is 0."""
    metrics.checked(labels, predictions)
    drawn = bootstrap(labels, predictions, users, resamples=resamples, seed=seed)
    inside = metrics.user_auc(labels, predictions, users)
    values = {
        "auc": metrics.auc(labels, predictions),
        "grouped_auc_by_impressions": inside.mean(by_impressions=True),
        "grouped_auc_by_user": inside.mean(by_impressions=False),
        "logloss": metrics.logloss(labels, predictions),
        "normalised_entropy": metrics.normalised_entropy(labels, predictions),
    }
    return Scores(
        rows=len(labels),
        users=len(inside.auc),
        base_rate=float(np.mean(labels)),
        users_left_out=inside.users_left_out,
        calibration_ratio=metrics.calibration_ratio(labels, predictions),
        calibration_error=metrics.calibration_bins(labels, predictions, num_bins).expected_error,
        **{name: Estimate(value, *interval(drawn[name], value)) for name, value in values.items()},
    )


def report(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    history_lengths: Shaped[np.ndarray, " row"] | None = None,
    true_probabilities: Float[np.ndarray, " row"] | None = None,
    history_buckets: Sequence[int] = HISTORY_BUCKETS,
    resamples: int = 200,
    seed: int = 0,
    num_bins: int = 20,
) -> Report:
    """Evaluate predictions, overall and by bucket of history lengths; buckets without rows are left out."""
    metrics.checked(labels, predictions)  # before buckets, so that an error counts all bad rows

    def scored(rows: Any) -> Scores:
        return score(labels[rows], predictions[rows], users[rows], resamples=resamples, seed=seed, num_bins=num_bins)

    by_history: dict[str, Scores] = {}
    if history_lengths is not None:
        bucket = bucket_of(history_lengths, history_buckets)
        by_history = {
            name: scored(bucket == position)
            for position, name in enumerate(bucket_names(history_buckets))
            if (bucket == position).any()
        }
    best = None if true_probabilities is None else metrics.auc(labels, true_probabilities)
    return Report(scored(slice(None)), by_history, best, resamples)


def compare(
    labels: Shaped[np.ndarray, " row"],
    first: Float[np.ndarray, " row"],
    second: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """Return the paired difference of each metric between `second` and `first` on the same rows."""
    whole = [score(labels, predictions, users, resamples=0) for predictions in (first, second)]
    drawn = [bootstrap(labels, predictions, users, resamples=resamples, seed=seed) for predictions in (first, second)]
    differences = []
    for name in drawn[0]:
        before, after = (getattr(scores, name).value for scores in whole)
        value = None if before is None or after is None else after - before
        gaps = drawn[1][name] - drawn[0][name]
        gaps = gaps[np.isfinite(gaps)]
        better = gaps < 0 if name in LOWER_IS_BETTER else gaps > 0
        share = float(better.mean()) if len(gaps) else None
        differences.append(Difference(name, value, *interval(gaps, value), share))
    return tuple(differences)


def bucket_names(history_buckets: Sequence[int]) -> list[str]:
    """Return the names of buckets, given their shortest histories.

    >>> bucket_names((0, 1, 32))
    ['0', '1-31', '32+']
    """
    ends = [following - 1 for following in history_buckets[1:]]
    ranges = zip(history_buckets, ends, strict=False)
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges] + [f"{history_buckets[-1]}+"]


def shortest_of(bucket: str) -> int:
    """Return the shortest history of a named bucket, to sort by.

    >>> sorted(["100-199", "0", "1000+", "32-99"], key=shortest_of)
    ['0', '32-99', '100-199', '1000+']
    """
    return int(bucket.partition("-")[0].rstrip("+"))


def bucket_of(
    history_lengths: Shaped[np.ndarray, " row"], history_buckets: Sequence[int]
) -> Shaped[np.ndarray, " row"]:
    """Return the index of each row's bucket; -1 if its history is shorter than the first bucket's."""
    if list(history_buckets) != sorted(set(history_buckets)) or not history_buckets:
        raise metrics.MetricError(f"history_buckets: expected increasing lengths, found {list(history_buckets)}")
    return np.searchsorted(np.asarray(history_buckets), history_lengths, side="right") - 1


def interval(drawn: Float[np.ndarray, " resample"], value: float | None) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of a metric's draws over resampled users; None if it is undefined."""
    drawn = drawn[np.isfinite(drawn)]
    if value is None or not len(drawn):
        return None, None
    low, high = np.percentile(drawn, _COVERED)
    return float(low), float(high)
