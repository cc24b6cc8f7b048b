"""Metrics of predicted click probabilities in NumPy: ranking, likelihood and calibration.

Rows are impressions. `labels` are 0 or 1 (or booleans), `predictions` are probabilities in [0, 1], `users` are any ids
that NumPy can sort. An undefined metric (such as the AUC if all labels are equal) is None, never NaN. All functions
raise MetricError for arrays of other shapes or values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from rm_rec.errors import RmRecError

_SMALLEST = float(np.finfo(np.float64).eps)  # probabilities are clipped this far from 0 and 1, as in scikit-learn


class MetricError(RmRecError, ValueError):
    """Labels and predictions from which no metric can be computed."""


class Ranking:
    """Rows sorted once by prediction, so that the AUC for other weights takes one pass, as resampling needs.

    >>> ranking = Ranking(np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.4, 0.4]))
    >>> ranking.auc(), ranking.auc(np.array([0.0, 1.0, 1.0, 1.0]))
    (0.75, 0.5)
    """

    def __init__(self, labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"]) -> None:
        clicked, scores = checked(labels, predictions, probabilities=False)
        self.order = np.argsort(scores, kind="stable")
        self._clicked = clicked[self.order]
        self._tie_starts = _starts(scores[self.order])

    def auc(self, weights: Shaped[np.ndarray, " row"] | None = None) -> float | None:
        """Return the probability that a click ranks above a non-click; ties count half, None if a class has no weight.

        `weights` are in the order of the labels; `auc_of_sorted` takes sorted ones.
        """
        return self.auc_of_sorted(np.ones(len(self.order)) if weights is None else weights[self.order])

    def auc_of_sorted(self, weights: Shaped[np.ndarray, " row"]) -> float | None:
        """Return `auc` of weights that are already in this ranking's `order`."""
        clicks = np.add.reduceat(weights * self._clicked, self._tie_starts, dtype=np.float64)
        others = np.add.reduceat(weights, self._tie_starts, dtype=np.float64) - clicks
        below = np.cumsum(others) - others / 2
        pairs = clicks.sum() * others.sum()
        return float(clicks @ below / pairs) if pairs > 0 else None


@dataclass(frozen=True)
class UserAuc:
    """The AUC of each user's rows, users in sorted order; NaN for a user with one class only."""

    auc: np.ndarray
    num_rows: np.ndarray

    @property
    def users_counted(self) -> int:
        """Number of users with both a click and a non-click."""
        return int(np.isfinite(self.auc).sum())

    @property
    def users_left_out(self) -> int:
        """Number of users whose labels are all equal, so that they have no AUC."""
        return len(self.auc) - self.users_counted

    def mean(self, *, by_impressions: bool) -> float | None:
        """Return the mean over users with an AUC, weighted by impressions (Zhu et al. 2017, DIN) or not."""
        counted = np.isfinite(self.auc)
        if not counted.any():
            return None
        return float(np.average(self.auc[counted], weights=self.num_rows[counted] if by_impressions else None))


@dataclass(frozen=True)
class CalibrationBins:
    """Rows in bins of about equal size by prediction, lowest first, for a reliability curve."""

    num_rows: np.ndarray
    mean_prediction: np.ndarray
    click_rate: np.ndarray

    @property
    def expected_error(self) -> float:
        """Mean |prediction - click rate| over bins, weighted by rows (ECE: Naeini et al. 2015)."""
        gaps = np.abs(self.mean_prediction - self.click_rate)
        return float(np.average(gaps, weights=self.num_rows))


def auc(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    weights: Shaped[np.ndarray, " row"] | None = None,
) -> float | None:
    """Return the probability that a click ranks above a non-click; ties count half, None if a class is missing.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    return Ranking(labels, predictions).auc(weights)


def user_auc(
    labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"], users: Shaped[np.ndarray, " row"]
) -> UserAuc:
    """Return the AUC of each user's rows, by one sort: ranks with ties averaged (Mann and Whitney 1947).

    >>> user_auc(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]), np.array([7, 7, 9])).mean(by_impressions=True)
    1.0
    """
    clicked, scores = checked(labels, predictions, probabilities=False)
    user = user_positions(users, len(clicked))
    order = np.lexsort((scores, user))
    user_sorted, scores_sorted = user[order], scores[order]
    tie_starts = np.flatnonzero(
        np.r_[True, (user_sorted[1:] != user_sorted[:-1]) | (scores_sorted[1:] != scores_sorted[:-1])]
    )
    tie_sizes = np.diff(np.r_[tie_starts, len(order)])
    num_rows = np.bincount(user)
    user_starts = np.cumsum(num_rows) - num_rows
    ranks = np.repeat(tie_starts + (tie_sizes + 1) / 2, tie_sizes) - user_starts[user_sorted]
    clicks = np.bincount(user, weights=clicked)
    rank_sums = np.bincount(user_sorted, weights=ranks * clicked[order])
    pairs = clicks * (num_rows - clicks)
    wins = rank_sums - clicks * (clicks + 1) / 2
    return UserAuc(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0), num_rows)


def row_losses(labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Return each row's negative log-likelihood in nats."""
    clicked, probability = checked(labels, predictions)
    probability = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    losses: np.ndarray = -np.where(clicked > 0, np.log(probability), np.log1p(-probability))
    return losses


def logloss(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    weights: Shaped[np.ndarray, " row"] | None = None,
) -> float:
    """Return the mean negative log-likelihood per row, in nats; lower is better.

    >>> round(logloss(np.array([1, 0]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    return float(np.average(row_losses(labels, predictions), weights=weights))


def entropy(rate: Any) -> Any:
    """Return the entropy, in nats, of a click with this probability (a number or an array)."""
    rate = np.clip(rate, _SMALLEST, 1 - _SMALLEST)
    return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def normalised_entropy(labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"]) -> float | None:
    """Return logloss divided by the entropy of the base rate: below 1 is better than predicting the base rate.

    None if all labels are equal. Source: He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at
    Facebook", section 3.
    """
    loss, base_rate = logloss(labels, predictions), float(np.mean(labels))
    return loss / float(entropy(base_rate)) if 0 < base_rate < 1 else None


def calibration_ratio(labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"]) -> float | None:
    """Return predicted clicks divided by actual clicks: above 1 predictions are too high; None without a click."""
    clicked, probability = checked(labels, predictions)
    return float(probability.sum() / clicked.sum()) if clicked.any() else None


def calibration_bins(
    labels: Shaped[np.ndarray, " row"], predictions: Float[np.ndarray, " row"], num_bins: int = 20
) -> CalibrationBins:
    """Divide rows by prediction into at most `num_bins` bins of about equal size.

    Equal predictions are in the same bin, so that bins do not depend on the order of the rows.
    """
    clicked, probability = checked(labels, predictions)
    order = np.argsort(probability, kind="stable")
    tie_starts = _starts(probability[order])
    tie_sizes = np.diff(np.r_[tie_starts, len(order)])
    middle = tie_starts + (tie_sizes - 1) / 2
    bin_of_row = np.repeat((middle * num_bins / len(order)).astype(np.int64), tie_sizes)
    num_rows = np.bincount(bin_of_row)
    filled = num_rows > 0
    sums = [np.bincount(bin_of_row, weights=values[order])[filled] for values in (probability, clicked)]
    return CalibrationBins(num_rows[filled], sums[0] / num_rows[filled], sums[1] / num_rows[filled])


def user_positions(users: Shaped[np.ndarray, " row"], num_rows: int) -> Int[np.ndarray, " row"]:
    """Return, for each row, the index of its user among the sorted users."""
    if users.shape != (num_rows,):
        raise MetricError(f"users: expected {num_rows:,} of them, one for each label, found shape {users.shape}")
    positions: np.ndarray = np.unique(users, return_inverse=True)[1]
    return positions


def checked(
    labels: Shaped[np.ndarray, " row"], predictions: Shaped[np.ndarray, " other"], *, probabilities: bool = True
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Return labels and predictions as float64; raise MetricError, with the number of bad rows, if they are invalid."""
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise MetricError(f"expected as many predictions as labels, found {predictions.shape} and {labels.shape}")
    if not len(labels):
        raise MetricError("expected at least one row, found none")
    clicked, scores = labels.astype(np.float64), predictions.astype(np.float64)
    wrong = int(((clicked != 0) & (clicked != 1)).sum())
    if wrong:
        raise MetricError(f"labels: expected 0 or 1, found something else in {wrong:,} of {len(labels):,} rows")
    bad = ~((scores >= 0) & (scores <= 1)) if probabilities else np.isnan(scores)
    if bad.any():
        expected = "probabilities from 0 to 1" if probabilities else "numbers"
        raise MetricError(
            f"predictions: expected {expected}, found {scores[bad][0]:g} and the like in "
            f"{int(bad.sum()):,} of {len(scores):,} rows"
        )
    return clicked, scores


def _starts(ordered: Shaped[np.ndarray, " row"]) -> Int[np.ndarray, " group"]:
    """Return the index of the first value of each run of equal values."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
