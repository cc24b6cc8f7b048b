"""Figures of retention: a curve for each model, over the age of the event that is recollected or decides a click.

Saved figures are 800 pixels wide. Error bars are 95 % intervals over users. Bins of few rows have a count and no point:
they would set the scale.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipelines.evaluation.figures.style import (
    COLOURS,
    FAINT,
    FEWEST_ROWS,
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


def recollection_by_age(models: Mapping[str, Recollection], segment_length: int) -> Figure:
    """Draw the fraction of masked events that a probe recollects from each model's memories, by the events' age.

    The dashed curve is of a probe that sees only the fragment: the difference comes from the memory.
    """
    ages, rows = _ages([recollection.memory.by_age for recollection in models.values()])
    figure, curve, counts = curve_above_counts(ages, rows, _HEIGHT)
    chance = next(iter(models.values())).chance
    guess = f"a guess: {chance:.1%}"
    alone = {model: f"{model}, fragment alone" for model in models}
    for index, (model, recollection) in enumerate(models.items()):
        colour, shift = COLOURS[index % len(COLOURS)], shift_of(index, len(models))
        _age_curve(curve, ages, recollection.memory.by_age, colour, model, shift)
        _age_curve(curve, ages, recollection.alone.by_age, colour, alone[model], shift, linestyle="--")
    curve.axhline(chance, color=FAINT, linestyle=":", linewidth=1.4, label=guess)
    curve.set_ylim(bottom=0)
    curve.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))  # 2.5 % is not rounded
    title_above = legend_above(curve, 2 * len(models) + 1, columns=2, order=[*models, guess, *alone.values()])
    label = f"Masked events picked out\nof {round(1 / chance)} candidates (95 % interval)"
    dress(curve, "Recollection by age of the event", "", label, title_above)
    dress_counts(counts, _age_label("event", segment_length), "Events asked")
    return figure


def auc_by_age(models: Mapping[str, RankingByAge], segment_length: int, window_segments: int | None = None) -> Figure:
    """Draw each model's click AUC by the age of the event that decides the click; "never" is where no event decides.

    Events of ages up to `window_segments` are in the recent window as raw events: a line marks this age.
    """
    first = next(iter(models.values()))
    ages, rows = _ages([ranking.by_age for ranking in models.values()])
    never = [ranking.never for ranking in models.values() if ranking.never is not None]
    names, rows = ([*ages, "never"], [*rows, max(point.rows for point in never)]) if never else (ages, rows)
    figure, curve, counts = curve_above_counts(names, rows, _HEIGHT)
    labels = list(models)
    for index, (model, ranking) in enumerate(models.items()):
        colour, shift = COLOURS[index % len(COLOURS)], shift_of(index, len(models))
        _age_curve(curve, ages, ranking.by_age, colour, model, shift)
        if ranking.never is not None:
            _age_curve(curve, names, {"never": ranking.never}, colour, "_never", shift)
    if first.best_possible is not None:
        labels.append("best possible")
        _age_curve(curve, ages, first.best_possible, FAINT, labels[-1], 0.0, linestyle=":")
    in_window = [name for name in ages if window_segments is not None and shortest_of(name) <= window_segments]
    if in_window and len(in_window) < len(ages):
        labels.append("to its right, only the memory has the event")
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
    """Return the bins that any curve has, youngest first, and the number of rows in each."""
    ages = sorted({name for curve in curves for name in curve}, key=shortest_of)
    return ages, [max(curve[name].rows for curve in curves if name in curve) for name in ages]


def _age_label(event: str, segment_length: int) -> str:
    return f"Age of the {event} (segments of {segment_length} events)"


def _age_curve(
    axes: Axes, ages: Sequence[str], curve: Curve, colour: str, label: str, shift: float, linestyle: str = "-"
) -> None:
    points = [(x + shift, curve[name]) for x, name in enumerate(ages) if name in curve]
    drawn = [(x, point) for x, point in points if point.rows >= FEWEST_ROWS and point.estimate.value is not None]
    errorbar(axes, [(x, point.estimate) for x, point in drawn], colour, label, linestyle)
