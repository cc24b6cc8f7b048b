"""Figures say what they were given, at the size a tracking page shows, and leave no global state behind."""

import io
import sys

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread

from pipelines.evaluation.figures.predictions import auc_by_history, calibration, comparison, training_curves
from rm_rec.evaluation.metrics import calibration_bins
from rm_rec.evaluation.report import Estimate, Report, report


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    predictions = generator.random(400) / 2
    return (generator.random(400) < predictions).astype(np.int64), predictions, np.repeat(np.arange(40), 10)


@pytest.fixture(scope="module")
def reported(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Report:
    return report(*rows, history_lengths=np.arange(400), resamples=5)


def drawn(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    image = imread(file)
    assert image.shape[1] == 800
    assert image[..., :3].std() > 0.01
    return image


def test_training_curves_mark_the_best_epoch() -> None:
    figure = training_curves([0.6, 0.5, 0.45], [None, 0.7, 0.69], best_epoch=2)
    drawn(figure)
    loss, auc = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 0.6], [2, 0.5], [3, 0.45]])
    np.testing.assert_allclose(np.asarray(auc.lines[0].get_ydata()), [np.nan, 0.7, 0.69])
    assert auc.texts[0].get_text() == "best: epoch 2, 0.7000"
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Epoch", "Loss per impression (nats)")


def test_training_curves_of_one_epoch_and_no_auc() -> None:
    drawn(training_curves([0.6], [None], best_epoch=1))


def test_calibration_draws_the_bins(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    labels, predictions, _ = rows
    bins = calibration_bins(labels, predictions, 8)
    figure = calibration(bins, predictions, "mine")
    drawn(figure)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_xdata(), bins.mean_prediction)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), bins.click_rate)
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(labels)


def test_calibration_of_a_constant_zero() -> None:
    predictions = np.zeros(5)
    drawn(calibration(calibration_bins(np.zeros(5), predictions), predictions, "mine"))


def test_auc_by_history_shows_every_bucket_and_its_rows(reported: Report) -> None:
    figure = auc_by_history({"memory": reported, "window": reported})
    drawn(figure)
    curve, counts = figure.axes
    assert [label.get_text() for label in counts.get_xticklabels()] == list(reported.by_history)
    assert [text.get_text() for text in counts.texts] == [str(s.rows) for s in reported.by_history.values()]
    legend = curve.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["memory", "window"]


def test_comparison_writes_each_value_and_leaves_out_the_undefined() -> None:
    estimates = {"a": Estimate(0.7, 0.65, 0.75), "b": Estimate(0.45, None, None), "c": Estimate(None, None, None)}
    figure = comparison(estimates, "AUC", baseline=0.5, reference=("best possible", 0.8))
    drawn(figure)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.7000", "0.4500"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, -0.05])
    assert axes.get_xlim()[0] <= 0.45
    (whiskers,) = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    segments = [segment for bars in whiskers.lines[2] for segment in bars.get_segments()]
    np.testing.assert_allclose(segments, [[[0.65, 0], [0.75, 0]], [[0.45, 1], [0.45, 1]]])


def test_nothing_is_kept_by_pyplot(reported: Report) -> None:
    auc_by_history({"memory": reported})
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
