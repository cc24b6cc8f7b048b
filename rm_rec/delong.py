"""DeLong's test: whether two models' AUCs on the same rows differ by more than chance, without resampling.

Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves"; computed by ranks as in Sun and Xu 2014, "Fast Implementation of DeLong's Algorithm", section 2.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from rm_rec.evaluation.metrics import checked

_COVERED = 1.959963984540054  # standard errors on either side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class DelongTest:
    """Two AUCs, their difference, and how sure it is if every row stands for itself."""

    first: float
    second: float
    standard_error: float
    """Of the difference; 0 where both models rank all rows alike."""

    @property
    def gain(self) -> float:
        """Second less first."""
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
        """Chance of a difference at least as large, either way, between models that are equally good."""
        if self.standard_error == 0:
            return 1.0 if self.gain == 0 else 0.0
        return math.erfc(abs(self.gain) / self.standard_error / math.sqrt(2))


def delong(
    labels: Shaped[np.ndarray, " row"], first: Float[np.ndarray, " row"], second: Float[np.ndarray, " row"]
) -> DelongTest | None:
    """Compare two sets of scores of the same rows; None where a class has fewer than two rows, so no variance.

    Rows are taken as independent of each other: where users have several, `report.compare` resamples users instead.
    O(row log row). Raises MetricError.

    >>> found = delong(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.1, 0.2, 0.3, 0.4]))
    >>> found.first, found.second, round(found.p_value, 4)
    (0.75, 1.0, 0.4795)
    """
    clicked = checked(labels, first, probabilities=False)[0] > 0
    clicks, others = int(clicked.sum()), int((~clicked).sum())
    if min(clicks, others) < 2:
        return None
    (first_auc, *before), (second_auc, *after) = (
        _placements(clicked, checked(labels, scores, probabilities=False)[1]) for scores in (first, second)
    )
    of_clicks, of_others = (theirs - ours for theirs, ours in zip(after, before, strict=True))
    variance = np.var(of_clicks, ddof=1) / clicks + np.var(of_others, ddof=1) / others
    return DelongTest(first_auc, second_auc, math.sqrt(float(variance)))


def _placements(
    clicked: Shaped[np.ndarray, " row"], scores: Float[np.ndarray, " row"]
) -> tuple[float, Float[np.ndarray, " click"], Float[np.ndarray, " other"]]:
    """Return the AUC, the share of non-clicks below each click, and of clicks above each non-click; ties are half."""
    clicks, others = scores[clicked], scores[~clicked]
    ranks = _midranks(scores)
    below = (ranks[clicked] - _midranks(clicks)) / len(others)
    above = 1 - (ranks[~clicked] - _midranks(others)) / len(clicks)
    return float(below.mean()), below, above


def _midranks(scores: Float[np.ndarray, " score"]) -> Float[np.ndarray, " score"]:
    """Rank from 1; equal scores share the mean of their ranks."""
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[position]
