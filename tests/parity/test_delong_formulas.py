"""DeLong's test by ranks against the paper's formulas, pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from rm_rec.delong import delong


def pair_by_pair(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Both AUCs and the variance of their difference: DeLong et al. 1988, equations 1 to 6, in loops."""
    areas, of_clicks, of_others = [], [], []
    for scores in (first, second):
        clicks = [float(score) for score, label in zip(scores, labels, strict=True) if label]
        others = [float(score) for score, label in zip(scores, labels, strict=True) if not label]
        wins = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in others] for x in clicks]
        of_clicks.append([sum(row) / len(others) for row in wins])
        of_others.append([sum(row[place] for row in wins) / len(clicks) for place in range(len(others))])
        areas.append(sum(map(sum, wins)) / (len(clicks) * len(others)))

    def covariance(values: list[list[float]], one: int, other: int) -> float:
        pairs = zip(values[one], values[other], strict=True)
        return sum((a - areas[one]) * (b - areas[other]) for a, b in pairs) / (len(values[0]) - 1)

    def s(one: int, other: int) -> float:
        return covariance(of_clicks, one, other) / len(of_clicks[0]) + covariance(of_others, one, other) / len(
            of_others[0]
        )

    return areas[0], areas[1], s(0, 0) + s(1, 1) - 2 * s(0, 1)


@st.composite
def two_models(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with two of each class at least, and scores of which many are equal."""
    rest = draw(st.lists(st.booleans(), max_size=30))
    labels = np.array([True, True, False, False, *rest]).astype(np.int64)
    levels = draw(st.integers(1, 8))
    scores = st.lists(st.integers(0, levels), min_size=len(labels), max_size=len(labels))
    first, second = (np.array(draw(scores)) / 8 for _ in range(2))
    return labels, first, second


@settings(deadline=None)
@given(two_models())
def test_ranks_give_what_pairs_give(sample: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    found = delong(*sample)
    first, second, variance = pair_by_pair(*sample)
    assert found is not None
    assert found.first == pytest.approx(first, abs=1e-12)
    assert found.second == pytest.approx(second, abs=1e-12)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)


def test_of_many_rows_it_equals_scikit_learns_areas() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 5_000)
    first, second = (0.3 * labels + generator.normal(0, 1, 5_000).round(2) for _ in range(2))
    found = delong(labels, first, second)
    assert found is not None
    assert found.first == pytest.approx(roc_auc_score(labels, first), abs=1e-12)
    assert found.second == pytest.approx(roc_auc_score(labels, second), abs=1e-12)
