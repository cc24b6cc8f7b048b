"""Figures of how far back memories reach: one curve a model, over the age of the event that is asked for or decides.

They are 800 pixels wide as saved. Bars are 95 % intervals over users. Bins of few rows have a count and no point: they
would set the scale.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipelines.evaluation.figures.style import (
    COLOURS,
    FAINT,
    curve_above_counts,
    dress,
    dress_counts,
    errorbar,
    legend_above,
    shift_of,
)
from rm_rec.evaluation.by_age import Curve, RankingByAge, Recollection
from rm_rec.evaluation.report import shortest_of

_HEIGHT = 5.6
_FEWEST_ROWS = 50  # of a point


def recollection_by_age(models: Mapping[str, Recollection], segment_length: int) -> Figure:
    """Draw the share of masked events that a probe picks out of each model's memories, by the events' age.

    Dashed, what a probe that sees the fragment alone picks out: what lies between the two, the memory tells.
    """
    ages, rows = _ages([recollection.memory.by_age for recollection in models.values()])
    figure, curve, counts = curve_above_counts(ages, rows, _HEIGHT)
    chance = next(iter(models.values())).chance
    guess = f"a guess: {chance:.1%}"
    alone = {model: f"{model}, fragment alone" for model in models}
    for place, (model, recollection) in enumerate(models.items()):
        colour, shift = COLOURS[place % len(COLOURS)], shift_of(place, len(models))
        _age_curve(curve, ages, recollection.memory.by_age, colour, model, shift)
        _age_curve(curve, ages, recollection.alone.by_age, colour, alone[model], shift, linestyle="--")
    curve.axhline(chance, color=FAINT, linestyle=":", linewidth=1.4, label=guess)
    curve.set_ylim(bottom=0)
    curve.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))  # never rounded: 2.5 %, 5 %
    title_above = legend_above(curve, 2 * len(models) + 1, columns=2, order=[*models, guess, *alone.values()])
    label = f"Masked events picked out\nof {round(1 / chance)} candidates (95 % interval)"
    dress(curve, "Recollection by age of the event", "", label, title_above)
    dress_counts(counts, _age_label("event", segment_length), "Events asked")
    return figure


def auc_by_age(models: Mapping[str, RankingByAge], segment_length: int, window_segments: int | None = None) -> Figure:
    """Draw each model's click AUC by the age of the event that decides, with what no event decides at the right.

    Up to `window_segments` the event is in the recent window, raw: a line marks where the memory is on its own.
    """
    first = next(iter(models.values()))
    ages, rows = _ages([ranking.by_age for ranking in models.values()])
    never = [ranking.never for ranking in models.values() if ranking.never is not None]
    names, rows = ([*ages, "never"], [*rows, max(point.rows for point in never)]) if never else (ages, rows)
    figure, curve, counts = curve_above_counts(names, rows, _HEIGHT)
    labels = list(models)
    for place, (model, ranking) in enumerate(models.items()):
        colour, shift = COLOURS[place % len(COLOURS)], shift_of(place, len(models))
        _age_curve(curve, ages, ranking.by_age, colour, model, shift)
        if ranking.never is not None:
            _age_curve(curve, names, {"never": ranking.never}, colour, "_never", shift)
    if first.best_possible is not None:
        labels.append("best possible")
        _age_curve(curve, ages, first.best_possible, FAINT, labels[-1], 0.0, linestyle=":")
    in_window = [name for name in ages if window_segments is not None and shortest_of(name) <= window_segments]
    if in_window and len(in_window) < len(ages):
        labels.append("to its right, the memory alone knows")
        curve.axvline(len(in_window) - 0.5, color=FAINT, linestyle="--", linewidth=1.2, zorder=0, label=labels[-1])
    if never:
        for axes in (curve, counts):
            axes.axvline(len(ages) - 0.5, color="#e6e6e6", linewidth=1)
    title_above = legend_above(curve, len(labels), columns=2, order=labels)
    if first.known_age:
        dress(
            curve,
            "AUC by age of the deciding event",
            "",
            "AUC among impressions\nof the age (95 % interval)",
            title_above,
        )
        dress_counts(counts, _age_label("deciding event", segment_length), "Impressions")
    else:
        title = "AUC of clicks by age of the user's last event on the item"
        dress(curve, title, "", "AUC of the age's clicks against\nall non-clicks (95 % interval)", title_above)
        dress_counts(counts, _age_label("last event on the item", segment_length), "Clicks")
    return figure


def _ages(curves: Sequence[Curve]) -> tuple[list[str], list[int]]:
    """Return the bins that some curve has, youngest first, and how many rows each one has."""
    ages = sorted({name for curve in curves for name in curve}, key=shortest_of)
    return ages, [max(curve[name].rows for curve in curves if name in curve) for name in ages]


def _age_label(what: str, segment_length: int) -> str:
    return f"Age of the {what} (segments of {segment_length} events)"


def _age_curve(
    axes: Axes, ages: Sequence[str], curve: Curve, colour: str, label: str, shift: float, linestyle: str = "-"
) -> None:
    known = [(at + shift, curve[name]) for at, name in enumerate(ages) if name in curve]
    drawn = [(at, point) for at, point in known if point.rows >= _FEWEST_ROWS and point.estimate.value is not None]
    errorbar(axes, [(at, point.estimate) for at, point in drawn], colour, label, linestyle)
