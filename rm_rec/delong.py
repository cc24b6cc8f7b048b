"""DeLong's test for the difference of two models' AUCs on the same rows, without resampling.

Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves"; computed by ranks as in Sun and Xu 2014, "Fast Implementation of DeLong's Algorithm", section 2.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from rm_rec.evaluation.metrics import checked

_COVERED = 1.959963984540054  # half-width, in standard errors, of the central 95 % of a normal distribution


@dataclass(frozen=True)
class DelongTest:
    """Two AUCs, their difference, and its significance if all rows are independent."""

    first: float
    second: float
    standard_error: float
    """Standard error of the difference; 0 if both models rank all rows the same."""

    @property
    def gain(self) -> float:
        """The second AUC minus the first."""
        return self.second - self.first

    @property
    def low(self) -> float:
        """Lower end of the gain's 95 % interval."""
        return self.gain - _COVERED * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the gain's 95 % interval."""
        return self.gain + _COVERED * self.standard_error

    @property
    def p_value(self) -> float:
        """Two-sided p-value: probability of a difference at least as large between equally good models."""
        if self.standard_error == 0:
            return 1.0 if self.gain == 0 else 0.0
        return math.erfc(abs(self.gain) / self.standard_error / math.sqrt(2))


def delong(
    labels: Shaped[np.ndarray, " row"], first: Float[np.ndarray, " row"], second: Float[np.ndarray, " row"]
) -> DelongTest | None:
    """Compare two sets of scores of the same rows; None if a class has fewer than two rows, and so no variance.

    Rows are assumed to be independent of each other; if users have several rows, use `report.compare`, which resamples
    users. Time is O(n log n) for n rows. Raises MetricError as `metrics.checked` does.

    >>> test = delong(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.1, 0.2, 0.3, 0.4]))
    >>> test.first, test.second, round(test.p_value, 4)
    (0.75, 1.0, 0.4795)
    """
    clicked = checked(labels, first, probabilities=False)[0] > 0
    clicks, others = int(clicked.sum()), int((~clicked).sum())
    if min(clicks, others) < 2:
        return None
    (first_auc, *before), (second_auc, *after) = (
        _placements(clicked, checked(labels, scores, probabilities=False)[1]) for scores in (first, second)
    )
    click_gaps, other_gaps = (theirs - ours for theirs, ours in zip(after, before, strict=True))
    variance = np.var(click_gaps, ddof=1) / clicks + np.var(other_gaps, ddof=1) / others
    return DelongTest(first_auc, second_auc, math.sqrt(float(variance)))


def _placements(
    clicked: Shaped[np.ndarray, " row"], scores: Float[np.ndarray, " row"]
) -> tuple[float, Float[np.ndarray, " click"], Float[np.ndarray, " other"]]:
    """Return AUC, fraction of non-clicks below each click, fraction of clicks above each non-click; ties count half."""
    clicks, others = scores[clicked], scores[~clicked]
    ranks = _midranks(scores)
    below = (ranks[clicked] - _midranks(clicks)) / len(others)
    above = 1 - (ranks[~clicked] - _midranks(others)) / len(clicks)
    return float(below.mean()), below, above


def _midranks(scores: Float[np.ndarray, " score"]) -> Float[np.ndarray, " score"]:
    """Return ranks from 1; equal scores get the mean of their ranks."""
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[position]
