"""Retention: accuracy and click AUC by the age of the event that decides, in segments.

The age of an event is the boundary (number of full segments in the history) minus the index of the event's segment. Age
0 is the tail, which is not folded into the state yet; a window of R segments has ages up to R as raw events; older
events are known from the memory only. Rows are questions or impressions; intervals come from resampling users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from rm_rec.evaluation.bins import AGE_BINS
from rm_rec.evaluation.metrics import auc, user_positions
from rm_rec.evaluation.report import Estimate, bucket_names, bucket_of, interval, score

NEVER = -1  # the age if there is no such event
_IN_NO_BIN = -2  # below every bin, and different from NEVER


@dataclass(frozen=True)
class AgePoint:
    """One point of a curve: the estimate for one bin of ages, and its number of rows."""

    rows: int
    estimate: Estimate


Curve = Mapping[str, AgePoint]  # bin of ages ("0", "3-4", "17+") -> point; bins without rows are left out


@dataclass(frozen=True)
class Answers:
    """Fraction of questions answered correctly, by the age of the event asked for, and overall."""

    by_age: Curve
    overall: AgePoint


@dataclass(frozen=True)
class Recollection:
    """Fraction of masked events that probes picked out of candidates."""

    memory: Answers
    """Of a probe that reads the user's memory."""
    alone: Answers
    """Of a probe trained without memories, which uses only the fragment's unmasked events and item popularity."""
    another_user: Answers | None
    """Of the first probe when it reads another user's memory, as a control; None if there is only one user."""
    chance: float
    """Expected fraction for random guesses."""


@dataclass(frozen=True)
class RankingByAge:
    """Click AUC by the age of the event that decides the click."""

    known_age: bool
    """True: the log says which event decides, and a bin's AUC is over the impressions of that age. False: the age is
    that of the user's last event on the same item, and a bin's AUC compares its clicks with all non-clicks."""
    by_age: Curve
    never: AgePoint | None
    """AUC of impressions that no earlier event decides, or of clicks on items without an earlier event of the user."""
    best_possible: Curve | None
    """AUC of the true click probabilities, if they are known."""


def ages_in_segments(
    num_earlier: Int[np.ndarray, " row"], events_ago: Int[np.ndarray, " row"], segment_length: int
) -> Int[np.ndarray, " row"]:
    """Convert ages in events (1: the last event; 0: never) to segments, given each row's number of earlier events.

    >>> ages_in_segments(np.array([70, 70, 70, 70]), np.array([1, 6, 7, 0]), 32).tolist()
    [0, 0, 1, -1]
    """
    ages = num_earlier // segment_length - (num_earlier - events_ago) // segment_length
    return np.where(events_ago > 0, ages, NEVER)


def share_by_age(
    correct: Bool[np.ndarray, " row"],
    ages: Int[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    age_bins: Sequence[int] = AGE_BINS,
    resamples: int = 200,
    seed: int = 0,
) -> Answers:
    """Return the fraction of correct answers in each bin of ages, and over all rows.

    >>> answers = share_by_age(np.array([True, True, False]), np.array([1, 3, 4]), np.array([7, 7, 9]))
    >>> {name: point.estimate.value for name, point in answers.by_age.items()}, answers.overall.rows
    ({'1': 1.0, '3-4': 0.5}, 3)
    """
    user = user_positions(users, len(correct))
    num_users = int(user.max()) + 1
    draws = np.random.default_rng(seed).multinomial(num_users, np.full(num_users, 1 / num_users), resamples)

    def point(rows: Bool[np.ndarray, " row"]) -> AgePoint:
        num_questions = np.bincount(user[rows], minlength=num_users)
        num_correct = np.bincount(user[rows], weights=correct[rows], minlength=num_users)
        drawn_questions = draws @ num_questions
        drawn = np.divide(
            draws @ num_correct, drawn_questions, out=np.full(resamples, np.nan), where=drawn_questions > 0
        )
        value = float(correct[rows].mean()) if rows.any() else None
        return AgePoint(int(rows.sum()), Estimate(value, *interval(drawn, value)))

    return Answers(_curve(ages, age_bins, point), point(np.ones(len(correct), bool)))


def ranking_by_age(
    labels: Shaped[np.ndarray, " row"],
    predictions: Float[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    ages: Int[np.ndarray, " row"],
    *,
    known_age: bool,
    true_probabilities: Float[np.ndarray, " row"] | None = None,
    age_bins: Sequence[int] = AGE_BINS,
    resamples: int = 200,
    seed: int = 0,
) -> RankingByAge:
    """Return the AUC of each bin of ages; `RankingByAge` explains over which impressions."""
    clicked = labels.astype(bool)
    ages = ages if known_age else np.where(clicked, ages, _IN_NO_BIN)

    def ranked(rows: Bool[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
        return rows if known_age else rows | ~clicked

    def point(rows: Bool[np.ndarray, " row"]) -> AgePoint:
        among = ranked(rows)
        scores = score(labels[among], predictions[among], users[among], resamples=resamples, seed=seed)
        return AgePoint(int(rows.sum()), scores.auc)

    def best(rows: Bool[np.ndarray, " row"]) -> AgePoint:
        assert true_probabilities is not None
        among = ranked(rows)
        return AgePoint(int(rows.sum()), Estimate(auc(labels[among], true_probabilities[among]), None, None))

    never = ages == NEVER
    return RankingByAge(
        known_age=known_age,
        by_age=_curve(ages, age_bins, point),
        never=point(never) if never.any() else None,
        best_possible=None if true_probabilities is None else _curve(ages, age_bins, best),
    )


def _curve(
    ages: Int[np.ndarray, " row"], age_bins: Sequence[int], point: Callable[[Bool[np.ndarray, " row"]], AgePoint]
) -> dict[str, AgePoint]:
    bin_of_row = bucket_of(ages, age_bins)
    names = enumerate(bucket_names(age_bins))
    return {name: point(bin_of_row == index) for index, name in names if (bin_of_row == index).any()}
