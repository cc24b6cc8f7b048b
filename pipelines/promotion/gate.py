"""The gate: whether a candidate's predictions are better than a champion's on the same impressions, beyond chance."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from feature_store.errors import DataError
from rm_rec.evaluation.report import Difference, Scores, compare, score


@dataclass(frozen=True)
class Bounds:
    """What a candidate has to reach, and how it is measured; `judge` says what each means."""

    min_gain: float
    max_calibration_loss: float
    max_ratio_loss: float
    resamples: int
    seed: int
    calibration_bins: int


@dataclass(frozen=True)
class Check:
    """One thing that must hold, in the words of a table."""

    name: str
    number: str
    """What was found."""
    bound: str
    """What it must be."""
    holds: bool
    champion: str = ""
    candidate: str = ""
    mend: str = ""
    """What to do where it does not hold."""

    def __str__(self) -> str:
        return f"{self.name}: {self.number}, must be {self.bound}" + (f"; {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class Judgement:
    """A candidate beside a champion, and what of it the gate asks."""

    champion: Scores
    candidate: Scores
    differences: tuple[Difference, ...]
    """Candidate less champion, each metric."""
    checks: tuple[Check, ...]

    @property
    def gain(self) -> Difference:
        """The difference that decides: that of the AUC."""
        return next(row for row in self.differences if row.metric == "auc")

    def numbers(self) -> dict[str, float]:
        """Return what is known as flat numbers, for MLflow."""
        gain = self.gain
        found: Mapping[str, float | None] = {
            "auc_champion": self.champion.auc.value,
            "auc_candidate": self.candidate.auc.value,
            "auc_gain": gain.value,
            "auc_gain_low": gain.low,
            "auc_gain_high": gain.high,
            "auc_share_better": gain.share_better,
            "logloss_champion": self.champion.logloss.value,
            "logloss_candidate": self.candidate.logloss.value,
            "calibration_error_champion": self.champion.calibration_error,
            "calibration_error_candidate": self.candidate.calibration_error,
            "calibration_ratio_champion": self.champion.calibration_ratio,
            "calibration_ratio_candidate": self.candidate.calibration_ratio,
            "impressions": self.candidate.rows,
            "users": self.candidate.users,
        }
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def judge(
    labels: Shaped[np.ndarray, " row"],
    champion: Float[np.ndarray, " row"],
    candidate: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    bounds: Bounds,
) -> Judgement:
    """Hold a candidate's predictions against a champion's on the same impressions.

    Three checks: the lower end of the 95 % interval of the AUC's gain, over resampled users, is above `min_gain`; the
    expected calibration error is at most `max_calibration_loss` above the champion's; |predicted / actual clicks - 1|
    is at most `max_ratio_loss` above the champion's. Raises DataError where all labels are equal, MetricError where
    labels or predictions are none.
    """
    before, after = (
        score(labels, predictions, users, resamples=0, num_bins=bounds.calibration_bins)
        for predictions in (champion, candidate)
    )
    if before.auc.value is None or after.auc.value is None:
        raise DataError(
            f"all {len(labels):,} held-out labels are {labels[0]:g}: no AUC exists, so nothing can be compared; "
            "choose another --split or log"
        )
    differences = compare(labels, champion, candidate, users, resamples=bounds.resamples, seed=bounds.seed)
    return Judgement(
        champion=before,
        candidate=after,
        differences=differences,
        checks=(
            _gain(differences, before, after, bounds.min_gain),
            _calibration_error(before, after, bounds.max_calibration_loss),
            _calibration_ratio(before, after, bounds.max_ratio_loss),
        ),
    )


def _gain(differences: tuple[Difference, ...], before: Scores, after: Scores, bound: float) -> Check:
    gain = next(row for row in differences if row.metric == "auc")
    known = gain.low is not None and gain.high is not None
    return Check(
        name="AUC gain, lower end of its 95 % interval",
        number=f"{gain.low:+.4f} (gain {gain.value:+.4f}, upper end {gain.high:+.4f})" if known else "undefined",
        bound=f"above {bound:g}",
        # Strictly: two models that rank alike have the interval [0, 0], which is no gain.
        holds=gain.low is not None and gain.low > bound,
        champion=f"{before.auc.value:.4f}",
        candidate=f"{after.auc.value:.4f}",
    )


def _calibration_error(before: Scores, after: Scores, bound: float) -> Check:
    loss = after.calibration_error - before.calibration_error
    return Check(
        name="Calibration error, by how much larger",
        number=f"{loss:+.4f}",
        bound=f"at most {bound:g}",
        holds=loss <= bound,
        champion=f"{before.calibration_error:.4f}",
        candidate=f"{after.calibration_error:.4f}",
    )


def _calibration_ratio(before: Scores, after: Scores, bound: float) -> Check:
    # There is a click, as there is an AUC.
    assert before.calibration_ratio is not None
    assert after.calibration_ratio is not None
    loss = abs(after.calibration_ratio - 1) - abs(before.calibration_ratio - 1)
    return Check(
        name="Predicted / actual clicks, how much further from 1",
        number=f"{loss:+.4f}",
        bound=f"at most {bound:g}",
        holds=loss <= bound,
        champion=f"{before.calibration_ratio:.4f}",
        candidate=f"{after.calibration_ratio:.4f}",
    )
