"""The common style of all figures: colours, sizes, labels, and curves over named bins.

pyplot is not used: its global state keeps figures alive in long jobs and is not thread-safe.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rm_rec.evaluation.report import Estimate

# Okabe and Ito 2008: colours that colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#333333", "#8a8a8a"
FEWEST_ROWS = 50  # of a point in a curve: points of fewer rows would set the scale
_DOTS_PER_INCH = 100


def new_figure(height: float) -> Figure:
    """Start a figure 800 pixels wide, `height` in hundreds of pixels."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(8, height), dpi=_DOTS_PER_INCH, layout=layout, facecolor="white")


def curve_above_counts(names: Sequence[str], rows: Sequence[int], height: float = 5.0) -> tuple[Figure, Axes, Axes]:
    """Start a figure of curves over named bins, with a bar for each bin's rows beneath."""
    figure = new_figure(height)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bars = counts.bar(range(len(names)), rows, color=FAINT, alpha=0.5, width=0.6)
    counts.bar_label(bars, [f"{count:,}" for count in rows], fontsize=9, color=INK, padding=2)
    counts.margins(y=0.35)
    counts.set_xticks(range(len(names)), names)
    counts.set_xlim(-0.6, len(names) - 0.4)
    return figure, curve, counts


def dress(axes: Axes, title: str, x_label: str, y_label: str, title_above: int = 6) -> None:
    """Set title, labels and style of axes; the title is `title_above` points above them."""
    axes.set_title(title, loc="left", pad=title_above, fontsize=13, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.set_ylabel(y_label, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK, length=3)
    axes.grid(visible=True, axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def dress_counts(axes: Axes, x_label: str, y_label: str) -> None:
    """Set labels and style of the bars beneath the curves."""
    dress(axes, "", x_label, y_label)
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend_above(axes: Axes, num_lines: int, columns: int = 3, order: Sequence[str] = ()) -> int:
    """Put the legend between title and axes; return the distance of the title from the axes that it needs, in points.

    `order` names the labels that come first, column after column.
    """
    handles, labels = axes.get_legend_handles_labels()
    rank = {label: index for index, label in enumerate(order)}
    indices = sorted(range(len(labels)), key=lambda index: rank.get(labels[index], len(order)))
    axes.legend(
        [handles[index] for index in indices],
        [labels[index] for index in indices],
        frameon=False,
        fontsize=10,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        borderpad=0,
    )
    return 10 + 18 * -(-num_lines // columns)


def shift_of(index: int, num_curves: int) -> float:
    """Return the horizontal shift of one of several curves, so that their intervals are side by side in a bin."""
    return (index - (num_curves - 1) / 2) * min(0.12, 0.7 / num_curves)


def errorbar(
    axes: Axes, points: Sequence[tuple[float, Estimate]], colour: str, label: str, linestyle: str = "-"
) -> None:
    """Draw a curve of (x, estimate) points, with intervals where they are known."""
    xs = [x for x, _ in points]
    values = [estimate.value or 0.0 for _, estimate in points]
    ends = [ends_of(estimate) for _, estimate in points]
    below = [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)]
    axes.errorbar(
        xs,
        values,
        yerr=[below, above],
        color=colour,
        marker="o",
        markersize=6,
        linewidth=1.6,
        linestyle=linestyle,
        capsize=3,
        label=label,
    )


def ends_of(estimate: Estimate) -> tuple[float, float]:
    """Return the interval of an estimate, or its value twice if it has no interval."""
    value = estimate.value or 0.0
    return (value if estimate.low is None else estimate.low, value if estimate.high is None else estimate.high)
