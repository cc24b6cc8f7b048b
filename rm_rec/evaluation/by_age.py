"""How far back a memory reaches: successes and ranking by the age of the event that decides, counted in segments.

An age in segments is the boundary (full segments in the history) less the segment in which the event lies. Age 0 is the
tail, which no state holds; a recent window of R segments shows ages up to R raw; what is older, the memory alone knows.
Rows are questions or impressions; intervals come from resampling users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from rm_rec.evaluation.metrics import auc, user_positions
from rm_rec.evaluation.report import Estimate, bucket_names, bucket_of, interval, score

AGE_BINS = (0, 1, 2, 3, 5, 9, 17)  # each bin's youngest age, in segments
NEVER = -1  # the age of what never happened
_IN_NO_BIN = -2  # below every bin, and not never


@dataclass(frozen=True)
class AgePoint:
    """One point of a curve: what was measured at one bin of ages, and on how many rows."""

    rows: int
    estimate: Estimate


Curve = Mapping[str, AgePoint]  # bin of ages ("0", "3-4", "17+") -> point; bins without rows are left out


@dataclass(frozen=True)
class Answers:
    """Share of questions answered rightly, by the age of what is asked, and of all."""

    by_age: Curve
    overall: AgePoint


@dataclass(frozen=True)
class Recollection:
    """Share of masked events that probes picked out from candidates."""

    memory: Answers
    """By a probe that reads the user's memory."""
    alone: Answers
    """By a probe that was trained without any: what the fragment's unmasked events and popularity tell."""
    another_user: Answers | None
    """By the first probe, from another user's memory: how far it relies on what it reads; None if there is one user."""
    chance: float
    """Of a guess."""


@dataclass(frozen=True)
class RankingByAge:
    """Click AUC by the age of the event that decides the click."""

    known_age: bool
    """True: the log says which event decides, and a bin's AUC is among the impressions of that age. False: an age is
    that of the user's last event on the same item, and a bin's AUC is its clicks' against all other impressions'."""
    by_age: Curve
    never: AgePoint | None
    """Of impressions that no earlier event decides, or clicks on an item that the user had never met."""
    best_possible: Curve | None
    """The AUC that the true click probabilities reach, where they are known."""


def ages_in_segments(
    num_earlier: Int[np.ndarray, " row"], events_ago: Int[np.ndarray, " row"], segment_length: int
) -> Int[np.ndarray, " row"]:
    """Turn ages in events (1: the last one before; 0: never) into segments, given each row's number of earlier events.

    >>> ages_in_segments(np.array([70, 70, 70, 70]), np.array([1, 6, 7, 0]), 32).tolist()
    [0, 0, 1, -1]
    """
    ages = num_earlier // segment_length - (num_earlier - events_ago) // segment_length
    return np.where(events_ago > 0, ages, NEVER)


def share_by_age(
    right: Bool[np.ndarray, " row"],
    ages: Int[np.ndarray, " row"],
    users: Shaped[np.ndarray, " row"],
    *,
    age_bins: Sequence[int] = AGE_BINS,
    resamples: int = 200,
    seed: int = 0,
) -> Answers:
    """Return the share of right answers in each bin of ages, and over all rows.

    >>> answers = share_by_age(np.array([True, True, False]), np.array([1, 3, 4]), np.array([7, 7, 9]))
    >>> {name: point.estimate.value for name, point in answers.by_age.items()}, answers.overall.rows
    ({'1': 1.0, '3-4': 0.5}, 3)
    """
    user = user_positions(users, len(right))
    num_users = int(user.max()) + 1
    draws = np.random.default_rng(seed).multinomial(num_users, np.full(num_users, 1 / num_users), resamples)

    def point(rows: Bool[np.ndarray, " row"]) -> AgePoint:
        asked = np.bincount(user[rows], minlength=num_users)
        answered = np.bincount(user[rows], weights=right[rows], minlength=num_users)
        drawn_asked = draws @ asked
        drawn = np.divide(draws @ answered, drawn_asked, out=np.full(resamples, np.nan), where=drawn_asked > 0)
        value = float(right[rows].mean()) if rows.any() else None
        return AgePoint(int(rows.sum()), Estimate(value, *interval(drawn, value)))

    return Answers(_curve(ages, age_bins, point), point(np.ones(len(right), bool)))


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
    """Return the AUC of each bin of ages; see `RankingByAge` for what a bin's AUC is of."""
    clicked = labels.astype(bool)
    ages = ages if known_age else np.where(clicked, ages, _IN_NO_BIN)

    def ranked(rows: Bool[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
        return rows if known_age else rows | ~clicked

    def point(rows: Bool[np.ndarray, " row"]) -> AgePoint:
        among = ranked(rows)
        found = score(labels[among], predictions[among], users[among], resamples=resamples, seed=seed)
        return AgePoint(int(rows.sum()), found.auc)

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
    return {name: point(bin_of_row == place) for place, name in names if (bin_of_row == place).any()}
