"""Curves by age equal slow loops over the rows, and have intervals where there is something to resample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from rm_rec.evaluation.by_age import NEVER, ages_in_segments, ranking_by_age, share_by_age

rows = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=30)


@settings(deadline=None)
@given(rows=rows, segment_length=st.integers(1, 20))
def test_ages_equal_walking_back_event_by_event(rows: list[tuple[int, int]], segment_length: int) -> None:
    rows = [(earlier, min(ago, earlier)) for earlier, ago in rows]
    expected = []
    for earlier, ago in rows:
        segment_of = [place // segment_length for place in range(earlier)]
        full = len([s for s in set(segment_of) if segment_of.count(s) == segment_length])
        expected.append(full - segment_of[earlier - ago] if ago else NEVER)
    found = ages_in_segments(np.array([e for e, _ in rows]), np.array([a for _, a in rows]), segment_length)
    assert found.tolist() == expected


def test_shares_are_those_of_each_bin() -> None:
    draw = np.random.default_rng(0)
    ages, users = draw.integers(1, 30, 500), draw.integers(0, 20, 500)
    right = draw.random(500) < 0.3
    answers = share_by_age(right, ages, users, resamples=300)
    assert list(answers.by_age) == ["1", "2", "3-4", "5-8", "9-16", "17+"]
    for name, low, high in (("1", 1, 1), ("3-4", 3, 4), ("17+", 17, 99)):
        inside = (ages >= low) & (ages <= high)
        point = answers.by_age[name]
        assert point.rows == inside.sum()
        assert point.estimate.value == pytest.approx(right[inside].mean())
        assert point.estimate.low is not None
        assert point.estimate.low < right[inside].mean() < point.estimate.high
    assert answers.overall.rows == 500
    assert sum(point.rows for point in answers.by_age.values()) == 500


def test_an_interval_is_over_users_not_rows() -> None:
    # Of each user, all rows are right or none: 200 rows know no more than 10 users.
    users = np.repeat(np.arange(10), 20)
    estimate = share_by_age(users < 5, np.ones(200, np.int64), users, resamples=500).overall.estimate
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.high - estimate.low > 0.5
    assert share_by_age(users < 5, np.ones(200, np.int64), users, resamples=0).overall.estimate.low is None


def impressions() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 400)
    predictions = np.clip(0.3 * labels + draw.random(400) * 0.7, 0, 1)
    return labels, predictions, draw.integers(0, 30, 400), draw.choice([NEVER, 0, 1, 2, 3, 20], 400)


def test_known_ages_are_ranked_within_their_bin() -> None:
    labels, predictions, users, ages = impressions()
    found = ranking_by_age(labels, predictions, users, ages, known_age=True, true_probabilities=predictions / 2)
    assert list(found.by_age) == ["0", "1", "2", "3-4", "17+"]
    for name, age in (("0", 0), ("3-4", 3), ("17+", 20)):
        point = found.by_age[name]
        assert point.rows == (ages == age).sum()
        assert point.estimate.value == pytest.approx(roc_auc_score(labels[ages == age], predictions[ages == age]))
        assert found.best_possible is not None
        assert found.best_possible[name].estimate.value == pytest.approx(point.estimate.value)
    assert found.never is not None
    assert found.never.estimate.value == pytest.approx(roc_auc_score(labels[ages < 0], predictions[ages < 0]))


def test_clicks_of_an_items_age_are_ranked_against_all_others() -> None:
    labels, predictions, users, ages = impressions()
    found = ranking_by_age(labels, predictions, users, ages, known_age=False, resamples=0)
    for name, age in (("0", 0), ("3-4", 3), ("never", NEVER)):
        point = found.never if name == "never" else found.by_age[name]
        among = (labels == 0) | (ages == age)
        assert point is not None
        assert point.rows == ((ages == age) & (labels == 1)).sum()
        assert point.estimate.value == pytest.approx(roc_auc_score(labels[among], predictions[among]))
        assert point.estimate.low is None
    assert found.best_possible is None


def test_an_age_of_one_class_has_a_count_and_no_auc() -> None:
    labels, ages = np.array([1, 1, 0, 1]), np.array([0, 0, 2, 2])
    found = ranking_by_age(labels, np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4), ages, known_age=True, resamples=5)
    assert (found.by_age["0"].rows, found.by_age["0"].estimate.value) == (2, None)
    assert found.by_age["2"].estimate.value == 1.0
    assert found.never is None
