"""Reports: intervals that cover, buckets that partition, differences that are paired."""

import json
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rm_rec.evaluation import metrics
from rm_rec.evaluation.report import bootstrap, bucket_names, bucket_of, compare, report, score


def sample(num_users: int, per_user: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels drawn from true probabilities that differ by user, those probabilities, and users."""
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), per_user)
    logits = generator.normal(-1, 1, num_users)[users] + generator.normal(0, 1, len(users))
    truth = 1 / (1 + np.exp(-logits))
    return (generator.random(len(users)) < truth).astype(np.int64), truth, users


def test_a_draw_equals_the_metrics_of_the_rows_it_repeats() -> None:
    labels, truth, users = sample(30, 5)
    predictions = truth.round(1)  # ties
    drawn = bootstrap(labels, predictions, users, resamples=3, seed=4)
    generator = np.random.default_rng(4)
    for draw in range(3):
        picked = generator.integers(0, 30, 30)
        rows = np.concatenate([np.flatnonzero(users == user) for user in picked])
        copies = np.repeat(np.arange(30), 5)  # a user drawn twice is two users
        assert drawn["auc"][draw] == pytest.approx(roc_auc_score(labels[rows], predictions[rows]))
        inside = metrics.user_auc(labels[rows], predictions[rows], copies)
        assert drawn["grouped_auc_by_impressions"][draw] == pytest.approx(inside.mean(by_impressions=True))
        assert drawn["grouped_auc_by_user"][draw] == pytest.approx(inside.mean(by_impressions=False))
        assert drawn["logloss"][draw] == pytest.approx(metrics.logloss(labels[rows], predictions[rows]))
        entropy = metrics.normalised_entropy(labels[rows], predictions[rows])
        assert drawn["normalised_entropy"][draw] == pytest.approx(entropy)


def test_intervals_cover_about_as_often_as_they_say() -> None:
    truth_auc = metrics.auc(*sample(4000, 10, seed=99)[:2])
    assert truth_auc is not None
    covered = 0
    for seed in range(40):
        labels, truth, users = sample(100, 10, seed)
        estimate = score(labels, truth, users, resamples=100, seed=seed).auc
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth_auc <= estimate.high
    assert 32 <= covered <= 40  # about 38 expected; intervals over rows instead of users would cover less


def test_intervals_over_users_are_wider_than_over_rows_when_users_agree_with_themselves() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(0, 2, 60), 20)
    predictions = np.repeat(generator.random(60), 20)

    def width(users: np.ndarray) -> float:
        found = score(labels, predictions, users).auc
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(np.repeat(np.arange(60), 20)) > 2 * width(np.arange(1200))


def test_a_resample_sorts_nothing_and_calls_nothing_row_by_row() -> None:
    """So a hundred thousand rows take seconds."""

    def calls(num_users: int, resamples: int) -> tuple[int, int]:
        """Count all calls, and those of sorting."""
        found: list[str] = []
        labels, truth, users = sample(num_users, 20)
        sys.setprofile(lambda frame, event, called: found.append(getattr(called, "__name__", "")))
        bootstrap(labels, truth, users, resamples=resamples, seed=0)
        sys.setprofile(None)
        return len(found), sum("sort" in name for name in found)

    few, more, many_rows, many_rows_more = calls(10, 3), calls(10, 8), calls(500, 3), calls(500, 8)
    assert few[1] > 0, "what is counted is there"
    assert few[1] == more[1] == many_rows[1] == many_rows_more[1]
    assert more[0] - few[0] == many_rows_more[0] - many_rows[0] > 0


def test_buckets_partition_the_rows() -> None:
    labels, truth, users = sample(200, 10)
    lengths = np.random.default_rng(1).choice([0, 1, 31, 32, 999, 1000, 5000], len(labels))
    found = report(labels, truth, users, history_lengths=lengths, true_probabilities=truth, resamples=5)
    assert list(found.by_history) == ["0", "1-31", "32-99", "500-999", "1000+"]
    assert found.by_history["1-31"].rows == ((lengths == 1) | (lengths == 31)).sum()
    assert sum(scores.rows for scores in found.by_history.values()) == found.overall.rows
    of_long = metrics.auc(labels[lengths >= 1000], truth[lengths >= 1000])
    assert found.by_history["1000+"].auc.value == of_long
    assert found.best_possible_auc == found.overall.auc.value
    json.dumps(found.to_dict(), allow_nan=False)


def test_buckets_are_a_parameter() -> None:
    assert bucket_names((0, 1, 32, 100, 200, 500, 1000)) == [
        "0", "1-31", "32-99", "100-199", "200-499", "500-999", "1000+",
    ]  # fmt: skip
    np.testing.assert_array_equal(bucket_of(np.array([0, 4, 5, 9]), (1, 5)), [-1, 0, 1, 1])
    with pytest.raises(metrics.MetricError, match="increasing"):
        bucket_of(np.array([1]), (5, 1))


def test_one_class_is_undefined_not_nan() -> None:
    found = score(np.zeros(4, dtype=np.int64), np.full(4, 0.2), np.arange(4), resamples=5)
    assert found.auc.value is None
    assert found.auc.low is None
    assert found.users_left_out == 4
    assert found.logloss.value == pytest.approx(-np.log(0.8))


def test_a_paired_difference_sees_what_intervals_apart_do_not() -> None:
    labels, truth, users = sample(300, 10)
    worse = np.clip(truth + np.random.default_rng(3).normal(0, 0.1, len(truth)), 0, 1)
    by_name = {found.metric: found for found in compare(labels, worse, truth, users)}
    area, loss = by_name["auc"], by_name["logloss"]
    first, second = score(labels, worse, users).auc, score(labels, truth, users).auc
    assert None not in (area.low, first.high, second.low, area.share_better, loss.high, loss.share_better)
    assert area.value == pytest.approx(second.value - first.value)
    assert second.low < first.high
    assert area.low > 0
    assert area.share_better > 0.975
    assert loss.high < 0
    assert loss.share_better > 0.975


def test_a_model_is_not_better_than_itself() -> None:
    labels, truth, users = sample(50, 5)
    for found in compare(labels, truth, truth, users, resamples=20):
        assert (found.value, found.low, found.high, found.share_better) == (0, 0, 0, 0)
