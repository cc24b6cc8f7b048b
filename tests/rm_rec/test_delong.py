"""DeLong's test says what it should where the answer is known, and is undefined where there is none."""

import numpy as np
import pytest

from rm_rec.delong import DelongTest, delong
from rm_rec.evaluation.metrics import MetricError
from rm_rec.evaluation.report import compare


def test_equal_rankings_do_not_differ() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 100), generator.random(100)
    found = delong(labels, scores, scores**3)
    assert found is not None
    assert (found.gain, found.standard_error, found.low, found.high, found.p_value) == (0, 0, 0, 0, 1)
    assert DelongTest(0.5, 0.6, 0.0).p_value == 0


def test_the_order_of_models_turns_the_sign_alone() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 200)
    first, second = (labels + generator.normal(0, spread, 200) for spread in (2, 1))
    one, other = delong(labels, first, second), delong(labels, second, first)
    assert one is not None
    assert other is not None
    assert one.gain == -other.gain > 0
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


def test_models_that_are_equally_good_rarely_differ() -> None:
    generator = np.random.default_rng(2)
    outside, small = 0, 0
    for _ in range(400):
        labels = generator.integers(0, 2, 200)
        first, second = (labels + generator.normal(0, 1.5, 200) for _ in range(2))
        found = delong(labels, first, second)
        assert found is not None
        outside += not found.low <= 0 <= found.high
        small += found.p_value < 0.05
    assert outside == small
    assert 8 <= small <= 34  # about 20 expected


def test_where_a_user_is_a_row_it_agrees_with_resampling() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, 2_000)
    first, second = (1 / (1 + np.exp(-labels - generator.normal(0, spread, 2_000))) for spread in (2, 1.5))
    found = delong(labels, first, second)
    drawn = compare(labels, first, second, np.arange(2_000), resamples=400)[0]
    assert found is not None
    assert found.gain == pytest.approx(drawn.value, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.006)


def test_what_cannot_be_tested() -> None:
    scores = np.linspace(0, 1, 4)
    assert delong(np.array([0, 0, 0, 1]), scores, scores) is None
    assert delong(np.array([1, 1, 1, 0]), scores, scores) is None
    with pytest.raises(MetricError, match="labels: expected 0 or 1"):
        delong(np.array([0, 1, 2, 1]), scores, scores)
    with pytest.raises(MetricError, match="expected numbers, found nan"):
        delong(np.array([0, 1, 0, 1]), scores, np.array([0.1, np.nan, 0.3, 0.2]))
