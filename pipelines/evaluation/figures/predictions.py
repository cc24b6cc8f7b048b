"""Figures of a training run and of models' predictions; they are returned, not shown.

    auc_by_history({"memory": report}).savefig("auc.png")

Saved figures are 800 pixels wide.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pipelines.evaluation.figures.style import (
    COLOURS,
    FAINT,
    INK,
    curve_above_counts,
    dress,
    dress_counts,
    ends_of,
    errorbar,
    legend_above,
    new_figure,
    shift_of,
)
from rm_rec.evaluation.metrics import CalibrationBins
from rm_rec.evaluation.report import Estimate, Report, shortest_of


def training_curves(
    losses: Sequence[float], validation_aucs: Sequence[float | None], best_epoch: int | None = None
) -> Figure:
    """Draw the training loss and the validation AUC of every epoch; `best_epoch`, counted from 1, is marked."""
    figure = new_figure(4.2)
    loss_axes, auc_axes = figure.subplots(1, 2)
    epochs = np.arange(1, len(losses) + 1)
    aucs = np.array([np.nan if value is None else value for value in validation_aucs])
    loss_axes.plot(epochs, losses, color=COLOURS[0], marker="o", markersize=5, linewidth=2)
    auc_axes.plot(np.arange(1, len(aucs) + 1), aucs, color=COLOURS[1], marker="o", markersize=5, linewidth=2)
    dress(loss_axes, "Training loss", "Epoch", "Loss per impression (nats)")
    dress(auc_axes, "Validation AUC", "Epoch", "AUC")
    for axes in (loss_axes, auc_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.08, y=0.15)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=FAINT, linestyle="--", linewidth=1, zorder=0)
    if best_epoch is not None and np.isfinite(aucs[best_epoch - 1]):
        best = float(aucs[best_epoch - 1])
        auc_axes.plot([best_epoch], [best], marker="o", markersize=11, markerfacecolor="none", color=INK)
        leftwards = best_epoch > len(aucs) / 2
        auc_axes.annotate(
            f"best: epoch {best_epoch}, {best:.4f}",
            (best_epoch, best),
            xytext=(-10 if leftwards else 10, 12),
            textcoords="offset points",
            ha="right" if leftwards else "left",
            fontsize=10,
            color=INK,
        )
        auc_axes.margins(x=0.08, y=0.25)
    return figure


def calibration(bins: CalibrationBins, predictions: Float[np.ndarray, " row"], name: str) -> Figure:
    """Draw the click rate against the predicted probability, with a histogram of the predictions beneath."""
    figure = new_figure(5.6)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    most = float(max(bins.mean_prediction.max(), bins.click_rate.max(), np.quantile(predictions, 0.999)))
    end = min(1.0, 1.08 * most) if most > 0 else 1.0
    curve.plot([0, end], [0, end], color=FAINT, linestyle="--", linewidth=1.2, label="perfect")
    spread = 1.96 * np.sqrt(bins.click_rate * (1 - bins.click_rate) / bins.num_rows)
    curve.errorbar(
        bins.mean_prediction,
        bins.click_rate,
        yerr=spread,
        color=COLOURS[0],
        marker="o",
        markersize=5,
        linewidth=1.6,
        elinewidth=1.2,
        capsize=2,
        label=f"bins of about {int(np.median(bins.num_rows)):,} impressions",
    )
    curve.set_xlim(0, end)
    curve.set_ylim(0, end)
    curve.legend(loc="upper left", frameon=False, fontsize=10)
    dress(curve, f"Calibration of {name}: expected error {bins.expected_error:.4f}", "", "Click rate")
    histogram.hist(predictions, bins=np.linspace(0, end, 51), color=COLOURS[0], alpha=0.55)
    dress(histogram, "", "Predicted click probability", "Impressions")
    histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    histogram.yaxis.set_major_locator(MaxNLocator(3))
    return figure


def auc_by_history(reports: Mapping[str, Report]) -> Figure:
    """Draw each model's AUC in every bucket of history length, with 95 % intervals and the bucket's impressions."""
    buckets = sorted({name for report in reports.values() for name in report.by_history}, key=shortest_of)
    rows = [max(r.by_history[name].rows for r in reports.values() if name in r.by_history) for name in buckets]
    figure, curve, counts = curve_above_counts(buckets, rows)
    for index, (model, report) in enumerate(reports.items()):
        shift = shift_of(index, len(reports))
        aucs = [(x, report.by_history[name].auc) for x, name in enumerate(buckets) if name in report.by_history]
        points = [(x + shift, estimate) for x, estimate in aucs if estimate.value is not None]
        errorbar(curve, points, COLOURS[index % len(COLOURS)], model)
    title_above = legend_above(curve, len(reports)) if len(reports) > 1 else 6
    dress(curve, "AUC by length of history", "", "AUC (95 % interval)", title_above)
    dress_counts(counts, "Events before the impression", "Impressions")
    return figure


def comparison(
    estimates: Mapping[str, Estimate], metric: str, *, baseline: float, reference: tuple[str, float] | None = None
) -> Figure:
    """Draw one metric as a bar for each model, with 95 % intervals.

    Bars start at `baseline`, the value of an uninformed model (0.5 for an AUC, 1 for normalised entropy, 0 for a loss),
    so that their lengths can be compared. `reference` is a named value that is drawn as a line.
    """
    names = [name for name, estimate in estimates.items() if estimate.value is not None]
    figure = new_figure(1.9 + 0.55 * len(names))
    axes = figure.subplots()
    values = np.array([estimates[name].value for name in names], dtype=np.float64)
    ends = [ends_of(estimates[name]) for name in names]
    errors = np.array([[v - low, high - v] for v, (low, high) in zip(values, ends, strict=True)]).reshape(-1, 2).T
    axes.barh(
        names,
        values - baseline,
        left=baseline,
        height=0.6,
        color=[COLOURS[index % len(COLOURS)] for index in range(len(names))],
        xerr=np.clip(errors, 0, None),
        error_kw={"ecolor": INK, "elinewidth": 1.4, "capsize": 4},
    )
    furthest = max([*(high for _, high in ends), reference[1] if reference else baseline, baseline])
    nearest = min([*(low for low, _ in ends), baseline])
    room = 0.16 * (furthest - nearest or 1.0)
    axes.set_xlim(nearest - (room / 8 if nearest < baseline else 0), furthest + room)
    for y, (value, (_, high)) in enumerate(zip(values, ends, strict=True)):
        axes.annotate(
            f"{value:.4f}",
            (max(high, baseline), y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.axvline(baseline, color=INK, linewidth=1)
    if reference is not None:
        name, value = reference
        axes.axvline(value, color=FAINT, linestyle="--", linewidth=1.2, zorder=0, label=f"{name}: {value:.4f}")
        axes.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    axes.invert_yaxis()
    dress(axes, f"{metric} by model", f"{metric} (95 % interval over users)", "")
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color="#e6e6e6")
    return figure
