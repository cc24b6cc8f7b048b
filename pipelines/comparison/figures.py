"""Figures of a comparison: AUC by candidate, curves by age and by popularity, costs; returned, not shown."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from pipelines.comparison.costs import Cost
from pipelines.comparison.names import REHEARSAL
from pipelines.comparison.outcomes import LogOutcomes, Outcome, Seeds, sorted_bins
from pipelines.evaluation.figures.style import (
    COLOURS,
    FAINT,
    FEWEST_ROWS,
    INK,
    curve_above_counts,
    dress,
    dress_counts,
    errorbar,
    legend_above,
    new_figure,
    shift_of,
)
from rm_rec.evaluation.report import Estimate

_BASELINE_LINES = ("--", ":", "-.", "-")


def auc_by_candidate(outcomes: LogOutcomes, baselines: Sequence[str]) -> Figure:
    """Draw each candidate's test AUC with its interval over users and its seeds, and the AUC within users."""
    ranked = sorted(outcomes.outcomes, key=lambda outcome: outcome.test.mean)
    figure = new_figure(1.7 + 0.27 * len(ranked))
    whole, inside = figure.subplots(1, 2, sharey=True)
    for y, outcome in enumerate(ranked):
        colour = _colour(outcome.candidate, baselines)
        low, high = outcome.test_interval
        estimate = Estimate(outcome.test.mean, low, high)
        _across(whole, y, estimate, outcome.test, colour)
        if outcome.grouped is not None:
            _across(inside, y, _of_seeds(outcome.grouped), outcome.grouped, colour)
    whole.set_yticks(range(len(ranked)), [outcome.candidate for outcome in ranked])
    if outcomes.best_possible is not None:
        whole.axvline(outcomes.best_possible, color=FAINT, linestyle="--", linewidth=1.2, zorder=0)
        whole.annotate(
            f"best possible {outcomes.best_possible:.4f} ",
            (outcomes.best_possible, 0),
            ha="right",
            fontsize=9,
            color=INK,
        )
    dress(whole, f"Test AUC, {outcomes.log}", "AUC (line: 95 % over users)", "")
    dress(inside, "", "AUC inside users (line: seeds)", "")
    for axes in (whole, inside):
        axes.grid(visible=True, axis="x", color="#e6e6e6")
    return figure


def auc_by_age(outcomes: LogOutcomes, names: Sequence[str], baselines: Sequence[str], segment_length: int) -> Figure:
    """Draw the AUC of the named candidates by the age of the event that decides the click."""
    event = "deciding event" if outcomes.known_age else "user's last event on the item"
    of_clicks = "AUC of the age's clicks\nagainst all non-clicks"
    among = "AUC among impressions\nof the age" if outcomes.known_age else of_clicks
    return _curves(
        f"AUC by age of the {event}, {outcomes.log}",
        outcomes.rows_by_age,
        {outcome.candidate: outcome.by_age for outcome in _named(outcomes, names)},
        baselines,
        f"{among} (bars: seeds)",
        f"Age in segments of {segment_length} events",
    )


def auc_by_popularity(outcomes: LogOutcomes, names: Sequence[str], baselines: Sequence[str]) -> Figure:
    """Draw the AUC of the named candidates by the number of training events on the item."""
    return _curves(
        f"AUC by popularity of the item, {outcomes.log}",
        outcomes.rows_by_popularity,
        {outcome.candidate: outcome.by_popularity for outcome in _named(outcomes, names)},
        baselines,
        "AUC among impressions\nof such items (bars: seeds)",
        "Events on the item in the training split",
    )


def costs(measured: Mapping[str, Cost], baselines: Sequence[str]) -> Figure:
    """Draw the costs of writing, reading and training, each on its own scale."""
    names = sorted(measured, key=lambda name: -measured[name].train)
    figure = new_figure(1.7 + 0.27 * len(names))
    panels: Sequence[tuple[str, str, Callable[[Cost], float]]] = (
        ("Write", "µs an event (log)", lambda cost: cost.write),
        ("Read", "ms a user (log)", lambda cost: cost.read),
        ("Train", "µs an impression (log)", lambda cost: cost.train),
    )
    for axes, (title, label, value) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for y, name in enumerate(names):
            if value(measured[name]) > 0:
                axes.plot(value(measured[name]), y, marker="o", markersize=6, color=_colour(name, baselines))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # some panels span less than a power of ten
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        dress(axes, title, label, "")
        axes.grid(visible=True, axis="x", color="#e6e6e6")
        axes.set_yticks(range(len(names)), names)
    return figure


def _curves(
    title: str,
    rows: Mapping[str, int],
    models: Mapping[str, Mapping[str, Seeds]],
    baselines: Sequence[str],
    y_label: str,
    x_label: str,
) -> Figure:
    bins = sorted_bins(rows)
    figure, curve, counts = curve_above_counts(bins, [rows[name] for name in bins], 5.6)
    colours, lines = iter(COLOURS), iter(_BASELINE_LINES)
    for index, (model, by_bin) in enumerate(models.items()):
        is_baseline = model in baselines
        colour = FAINT if is_baseline else next(colours, INK)
        shift = shift_of(index, len(models))
        drawn = [name for name in bins if name in by_bin and rows[name] >= FEWEST_ROWS]
        aged = [(bins.index(name) + shift, _of_seeds(by_bin[name])) for name in drawn if name != "never"]
        line = next(lines, "--") if is_baseline else "-"
        errorbar(curve, aged, colour, model, line)
        if "never" in drawn:
            errorbar(curve, [(bins.index("never") + shift, _of_seeds(by_bin["never"]))], colour, "_never")
    dress(curve, title, "", y_label, legend_above(curve, len(models)))
    dress_counts(counts, x_label, "Rows")
    return figure


def _across(axes: Axes, y: int, estimate: Estimate, seeds: Seeds, colour: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.6, alpha=0.6)
    axes.plot(seeds.values, [y] * len(seeds.values), "o", markersize=3, color=colour, alpha=0.6)
    axes.plot(seeds.mean, y, "D", markersize=5, color=colour)


def _of_seeds(seeds: Seeds) -> Estimate:
    return Estimate(seeds.mean, min(seeds.values), max(seeds.values))


def _named(outcomes: LogOutcomes, names: Sequence[str]) -> list[Outcome]:
    return [outcome for name in names for outcome in outcomes.outcomes if outcome.candidate == name]


def _colour(name: str, baselines: Sequence[str]) -> str:
    if name in baselines:
        return FAINT
    return COLOURS[1] if name.endswith(REHEARSAL) else COLOURS[0]
