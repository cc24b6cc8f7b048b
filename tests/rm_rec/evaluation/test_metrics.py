"""Metrics equal scikit-learn's to the last digits, with ties, weights and users of one class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from rm_rec.errors import RmRecError
from rm_rec.evaluation import metrics

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@st.composite
def rows(draw: st.DrawFn, max_levels: int = 6) -> Rows:
    """Labels, predictions with many ties, users and weights (zeros among them)."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_rows = draw(st.integers(2, 60))
    levels = draw(st.integers(1, max_levels))
    labels = (generator.random(num_rows) < draw(st.floats(0.05, 0.95))).astype(np.int64)
    predictions = generator.integers(0, levels, num_rows) / max(levels - 1, 1)
    users = generator.integers(0, draw(st.integers(1, 8)), num_rows) * 17
    return labels, predictions, users, generator.integers(0, 4, num_rows).astype(np.float64)


@given(rows())
@settings(deadline=None, max_examples=200)
def test_auc_equals_scikit_learn(drawn: Rows) -> None:
    labels, predictions, _, weights = drawn
    found = metrics.auc(labels, predictions)
    if len(set(labels)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(labels, predictions), abs=1e-12)
    weighted = metrics.auc(labels, predictions, weights)
    if len(set(labels[weights > 0])) < 2:
        assert weighted is None
    else:
        assert weighted == pytest.approx(roc_auc_score(labels, predictions, sample_weight=weights), abs=1e-12)


@given(rows())
@settings(deadline=None, max_examples=100)
def test_user_auc_equals_scikit_learn_in_every_user(drawn: Rows) -> None:
    labels, predictions, users, _ = drawn
    found = metrics.user_auc(labels, predictions, users)
    expected, sizes = [], []
    for user in np.unique(users):
        mine = users == user
        both = len(set(labels[mine])) == 2
        expected.append(roc_auc_score(labels[mine], predictions[mine]) if both else np.nan)
        sizes.append(mine.sum())
    np.testing.assert_allclose(found.auc, expected, atol=1e-12)
    np.testing.assert_array_equal(found.num_rows, sizes)
    kept = np.isfinite(expected)
    assert (found.users_counted, found.users_left_out) == (kept.sum(), (~kept).sum())
    if kept.any():
        by_impressions = np.average(np.array(expected)[kept], weights=np.array(sizes)[kept])
        assert found.mean(by_impressions=True) == pytest.approx(by_impressions)
        assert found.mean(by_impressions=False) == pytest.approx(np.mean(np.array(expected)[kept]))
    else:
        assert found.mean(by_impressions=True) is None


@given(rows())
@settings(deadline=None, max_examples=100)
def test_logloss_equals_scikit_learn(drawn: Rows) -> None:
    labels, predictions, _, weights = drawn
    assert metrics.logloss(labels, predictions) == pytest.approx(log_loss(labels, predictions, labels=[0, 1]))
    if weights.any():
        weighted = log_loss(labels, predictions, labels=[0, 1], sample_weight=weights)
        assert metrics.logloss(labels, predictions, weights) == pytest.approx(weighted)


def test_users_may_be_text() -> None:
    found = metrics.user_auc(np.array([1, 0, 1]), np.array([0.2, 0.4, 0.1]), np.array(["b", "b", "a"]))
    np.testing.assert_array_equal(found.auc, [np.nan, 0.0])


def test_predicting_the_base_rate_has_normalised_entropy_one() -> None:
    labels = np.array([1, 0, 0, 0])
    assert metrics.normalised_entropy(labels, np.full(4, 0.25)) == pytest.approx(1.0)
    assert metrics.normalised_entropy(labels, np.full(4, 0.5)) == pytest.approx(np.log(2) / metrics.entropy(0.25))
    assert metrics.normalised_entropy(np.ones(3), np.full(3, 0.5)) is None


def test_calibration_ratio_is_expected_over_actual_clicks() -> None:
    assert metrics.calibration_ratio(np.array([1, 0]), np.array([0.9, 0.6])) == pytest.approx(1.5)
    assert metrics.calibration_ratio(np.array([0, 0]), np.array([0.9, 0.6])) is None


def test_calibration_bins_hold_equal_numbers_and_their_means() -> None:
    generator = np.random.default_rng(0)
    predictions = generator.random(1000)
    labels = (generator.random(1000) < predictions / 2).astype(np.int64)
    bins = metrics.calibration_bins(labels, predictions, 10)
    np.testing.assert_array_equal(bins.num_rows, np.full(10, 100))
    order = np.argsort(predictions)
    np.testing.assert_allclose(bins.mean_prediction, predictions[order].reshape(10, 100).mean(1))
    np.testing.assert_allclose(bins.click_rate, labels[order].reshape(10, 100).mean(1))
    assert bins.expected_error == pytest.approx(np.abs(bins.mean_prediction - bins.click_rate).mean())
    assert bins.expected_error > 0.2


@given(rows(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_calibration_does_not_depend_on_the_order_of_rows(drawn: Rows, seed: int) -> None:
    labels, predictions, _, _ = drawn
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    bins = metrics.calibration_bins(labels, predictions, 5)
    other = metrics.calibration_bins(labels[shuffled], predictions[shuffled], 5)
    np.testing.assert_array_equal(bins.num_rows, other.num_rows)
    np.testing.assert_allclose(bins.click_rate, other.click_rate)
    assert bins.num_rows.sum() == len(labels)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0.5, np.nan], "found nan and the like in 1 of 2 rows"),
        ([0, 1], [0.5, 1.5], "probabilities from 0 to 1, found 1.5"),
        ([0, 2], [0.5, 0.5], "labels: expected 0 or 1, found something else in 1 of 2 rows"),
        ([0, np.nan], [0.5, 0.5], "labels: expected 0 or 1"),
        ([], [], "at least one row"),
        ([0, 1], [0.5], "as many predictions as labels"),
    ],
)
def test_arrays_that_no_metric_can_use(labels: list[float], predictions: list[float], message: str) -> None:
    with pytest.raises(RmRecError, match=message):
        metrics.checked(np.array(labels, dtype=float), np.array(predictions, dtype=float))


def test_auc_takes_any_score_but_not_nan() -> None:
    assert metrics.auc(np.array([0, 1]), np.array([-3.0, 40.0])) == 1.0
    with pytest.raises(metrics.MetricError, match="expected numbers"):
        metrics.auc(np.array([0, 1]), np.array([0.1, np.nan]))
