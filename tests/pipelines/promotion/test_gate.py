"""The decision: each bound by itself, strictly where it says so, on samples whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from feature_store.errors import DataError
from pipelines.promotion.gate import Bounds, Judgement, judge
from rm_rec.evaluation.metrics import MetricError, auc
from rm_rec.evaluation.report import compare

BOUNDS = Bounds(
    min_gain=0.0, max_calibration_loss=0.005, max_ratio_loss=0.02, resamples=200, seed=0, calibration_bins=20
)
GAIN, ERROR, RATIO = range(3)


def sample(noise: float, seed: int = 0, rows: int = 4_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, their true probabilities, those of a model that sees them through noise, and users of ten rows."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, rows)
    truth = 1 / (1 + np.exp(-logits))
    labels = (generator.random(rows) < truth).astype(np.int64)
    seen = logits + generator.normal(0, noise, rows)
    shrunk = seen * 1.5**2 / (1.5**2 + noise**2)
    return labels, truth, 1 / (1 + np.exp(-shrunk)), np.arange(rows) // 10


def missed(found: Judgement) -> list[int]:
    return [place for place, check in enumerate(found.checks) if not check.holds]


def test_a_better_model_passes_and_a_worse_one_does_not() -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    better = judge(labels, noisy, truth, users, BOUNDS)
    assert missed(better) == []
    assert better.gain.value == pytest.approx(auc(labels, truth) - auc(labels, noisy))
    assert (better.champion.auc.value, better.candidate.auc.value) == (auc(labels, noisy), auc(labels, truth))
    worse = judge(labels, truth, noisy, users, BOUNDS)
    assert GAIN in missed(worse)
    assert worse.gain.value == -better.gain.value


def test_the_interval_is_the_paired_one_over_users() -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    expected = compare(labels, noisy, truth, users, resamples=200, seed=3)[0]
    found = judge(labels, noisy, truth, users, replace(BOUNDS, seed=3))
    assert (found.gain.low, found.gain.high) == (expected.low, expected.high)
    assert f"{expected.low:+.4f}" in found.checks[GAIN].number


def test_a_better_average_is_not_enough() -> None:
    labels, truth, _, users = sample(noise=0.0, rows=300)
    nearly = np.clip(truth + np.random.default_rng(1).normal(0, 0.02, 300), 0, 1)
    pair = (truth, nearly) if auc(labels, nearly) > auc(labels, truth) else (nearly, truth)
    found = judge(labels, *pair, users, BOUNDS)
    assert found.gain.value > 0 > found.gain.low
    assert missed(found) == [GAIN]


def test_the_same_predictions_are_no_gain_but_lose_nothing() -> None:
    labels, truth, _, users = sample(noise=1.0)
    same = judge(labels, truth, truth, users, BOUNDS)
    assert (same.gain.low, same.gain.high) == (0, 0)
    assert missed(same) == [GAIN]
    assert missed(judge(labels, truth, truth, users, replace(BOUNDS, min_gain=-0.001))) == []


def test_a_threshold_is_asked_of_the_lower_end() -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    gain = judge(labels, noisy, truth, users, BOUNDS).gain
    assert missed(judge(labels, noisy, truth, users, replace(BOUNDS, min_gain=gain.low - 1e-9))) == []
    assert missed(judge(labels, noisy, truth, users, replace(BOUNDS, min_gain=gain.low))) == [GAIN]
    assert missed(judge(labels, noisy, truth, users, replace(BOUNDS, min_gain=gain.value))) == [GAIN]


def test_calibration_may_be_lost_by_so_much_and_no_more() -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    sharp = truth**0.5 / (truth**0.5 + (1 - truth) ** 0.5)  # the same ranks, too near to a half
    found = judge(labels, noisy, sharp, users, BOUNDS)
    assert missed(found) == [ERROR]
    loss = found.candidate.calibration_error - found.champion.calibration_error
    assert loss > 0.03
    assert missed(judge(labels, noisy, sharp, users, replace(BOUNDS, max_calibration_loss=loss))) == []
    assert missed(judge(labels, noisy, sharp, users, replace(BOUNDS, max_calibration_loss=loss - 1e-9))) == [ERROR]


@pytest.mark.parametrize("factor", [0.9, 1 / 0.9])
def test_the_ratio_may_move_from_one_either_way_by_so_much_and_no_more(factor: float) -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    lenient = replace(BOUNDS, max_calibration_loss=1.0)
    moved = np.clip(truth * factor, 0, 1)
    found = judge(labels, noisy, moved, users, lenient)
    assert missed(found) == [RATIO]
    before, after = (abs(scores.calibration_ratio - 1) for scores in (found.champion, found.candidate))
    assert missed(judge(labels, noisy, moved, users, replace(lenient, max_ratio_loss=after - before))) == []
    assert missed(judge(labels, noisy, moved, users, replace(lenient, max_ratio_loss=after - before - 1e-9))) == [RATIO]
    assert RATIO not in missed(judge(labels, moved, truth, users, lenient))  # nearer to 1 is no loss


def test_numbers_and_words() -> None:
    labels, truth, noisy, users = sample(noise=1.0)
    found = judge(labels, noisy, truth, users, BOUNDS)
    flat = found.numbers()
    assert flat["auc_gain"] == found.gain.value
    assert 0 < flat["auc_gain_low"] == found.gain.low < flat["auc_gain"] < flat["auc_gain_high"]
    assert flat["impressions"] == 4_000
    assert flat["users"] == 400
    assert str(found.checks[ERROR]).startswith("Calibration error, by how much larger: ")
    assert str(found.checks[ERROR]).endswith(", must be at most 0.005")


def test_what_cannot_be_judged() -> None:
    labels, truth, noisy, users = sample(noise=1.0, rows=50)
    with pytest.raises(DataError, match="all 50 held-out labels are 1: no AUC exists"):
        judge(np.ones(50, np.int64), truth, noisy, users, BOUNDS)
    with pytest.raises(MetricError, match="predictions: expected probabilities"):
        judge(labels, truth, noisy + 1, users, BOUNDS)
    rare = np.zeros(50, np.int64)
    rare[0] = 1
    found = judge(rare, truth, noisy, users, BOUNDS)  # a class of one row: an interval from the resamples that have it
    assert found.gain.low is not None
