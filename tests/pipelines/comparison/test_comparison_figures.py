"""Figures show each candidate once, in its place, and no point that too few rows stand behind."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from pipelines.comparison import figures
from pipelines.comparison.costs import Cost
from pipelines.comparison.outcomes import LogOutcomes
from pipelines.evaluation.figures.style import COLOURS, FAINT
from tests.pipelines.comparison.comparison_results import NTM, OUTCOMES, WINDOW, seeds

BASELINES, SHOWN = ("window_only",), ("window_only", "ntm")


def drawn(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return np.asarray(imread(file))


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def marks(axes: Axes, marker: str) -> list[tuple[list[float], float, str]]:
    """Return what is drawn with a marker: places along the axis, row and colour."""
    return [
        ([float(x) for x in line.get_xdata()], float(line.get_ydata()[0]), str(line.get_color()))
        for line in axes.lines
        if line.get_marker() == marker
    ]


def curves(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for container in figure.axes[0].containers:
        line = container.lines[0]  # type: ignore[attr-defined]  # of an error bar
        found.setdefault(str(container.get_label()), []).extend((float(x), float(y)) for x, y in line.get_xydata())
    return found


def ticks(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[1].get_xticklabels()]


def test_auc_is_by_candidate_the_best_on_top() -> None:
    figure = figures.auc_by_candidate(OUTCOMES, BASELINES)
    whole, inside = figure.axes
    assert labels(whole) == ["rum", "window_only", "ntm", "ntm+rehearsal"]
    means = [(xs, row) for xs, row, _ in marks(whole, "D")]
    assert means == [([pytest.approx(value)], row) for row, value in enumerate((0.52, 0.62, 0.71, 0.71))]
    assert [xs for xs, _, _ in marks(whole, "o")] == [[0.51, 0.53], [0.60, 0.64], [0.70, 0.72], [0.73, 0.69]]
    colours = [colour for _, _, colour in marks(whole, "D")]
    assert colours == [COLOURS[0], FAINT, COLOURS[0], COLOURS[1]]
    # Of the intervals one is not known; the last line is the best possible.
    lines = [[float(x) for x in line.get_xdata()] for line in whole.lines if line.get_marker() == "None"]
    assert lines == [[0.59, 0.66], [0.68, 0.74], [0.67, 0.75], [0.81, 0.81]]
    assert "best possible 0.8100" in whole.texts[0].get_text()
    assert len(marks(inside, "D")) == 3  # with rehearsal there is none inside users
    assert "my_log" in whole.get_title(loc="left")


def test_where_the_best_possible_is_not_known_there_is_no_line() -> None:
    whole = figures.auc_by_candidate(replace(OUTCOMES, best_possible=None), BASELINES).axes[0]
    assert not whole.texts
    assert len(whole.lines) == 4 + 4 + 3


def test_curves_by_age_leave_out_bins_of_few_rows() -> None:
    figure = figures.auc_by_age(OUTCOMES, SHOWN, BASELINES, 32)
    assert ticks(figure) == ["0", "3-4", "17+", "never"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["1,000", "50", "49", "100"]
    found = curves(figure)
    assert [*found] == ["window_only", "_never", "ntm"]
    # The last bin but one has 49 rows, one too few.
    assert [(round(x), y) for x, y in found["ntm"]] == [(0, pytest.approx(0.72)), (1, pytest.approx(0.63))]
    assert [(round(x), y) for x, y in found["window_only"]] == [(0, pytest.approx(0.71)), (1, pytest.approx(0.5))]
    assert [(round(x), y) for x, y in found["_never"]] == [(3, pytest.approx(0.46)), (3, pytest.approx(0.45))]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [*SHOWN]
    assert figure.axes[1].get_xlabel() == "Age in segments of 32 events"
    assert "deciding event, my_log" in figure.axes[0].get_title(loc="left")


def test_curves_are_of_the_candidates_that_are_shown_and_in_their_colours() -> None:
    figure = figures.auc_by_age(OUTCOMES, ("rum", "window_only", "not_there", "ntm"), BASELINES, 32)
    containers = [one for one in figure.axes[0].containers if not str(one.get_label()).startswith("_")]
    lines = {str(one.get_label()): one.lines[0] for one in containers}  # type: ignore[attr-defined]  # of an error bar
    assert [*lines] == ["rum", "window_only", "ntm"]
    assert {name: line.get_color() for name, line in lines.items()} == {
        "rum": COLOURS[0],
        "window_only": FAINT,
        "ntm": COLOURS[1],
    }
    assert lines["window_only"].get_linestyle() == "--"
    assert lines["ntm"].get_linestyle() == "-"


def test_more_candidates_than_colours_are_all_drawn() -> None:
    many = tuple(replace(NTM, candidate=f"machine_{number}") for number in range(9))
    baselines = tuple(replace(WINDOW, candidate=f"window_{number}") for number in range(6))
    found = replace(OUTCOMES, outcomes=(*baselines, *many))
    names = [one.candidate for one in found.outcomes]
    figure = figures.auc_by_popularity(found, names, names[:6])
    assert [*curves(figure)] == names
    drawn(figure)


def test_curves_by_popularity_have_a_point_where_an_auc_is_defined() -> None:
    figure = figures.auc_by_popularity(OUTCOMES, SHOWN, BASELINES)
    assert ticks(figure) == ["0", "1-9", "10-99"]
    found = curves(figure)
    assert [(round(x), y) for x, y in found["window_only"]] == [(0, pytest.approx(0.67)), (2, pytest.approx(0.61))]
    assert [(round(x), y) for x, y in found["ntm"]] == [(0, pytest.approx(0.68))]


def never_met() -> LogOutcomes:
    """A log on which nobody meets an item again."""
    one = replace(NTM, by_age={"never": seeds(0.6, 0.7)})
    return replace(OUTCOMES, known_age=False, rows_by_age={"never": 500}, outcomes=(one,))


def test_a_log_without_items_met_again_has_one_bin() -> None:
    figure = figures.auc_by_age(never_met(), ("ntm",), (), 8)
    assert ticks(figure) == ["never"]
    assert curves(figure) == {"ntm": [], "_never": [(pytest.approx(0.0), pytest.approx(0.65))]}
    assert "user's last event on the item" in figure.axes[0].get_title(loc="left")
    drawn(figure)


def test_nobody_shown_leaves_the_counts() -> None:
    figure = figures.auc_by_age(OUTCOMES, (), (), 8)
    assert curves(figure) == {}
    assert len(figure.axes[1].patches) == 4
    drawn(figure)


def test_costs_have_a_point_for_all_but_what_costs_nothing() -> None:
    measured = {"window_only": Cost(0.0, 0.5, 10.0), "ntm": Cost(8.0, 1.0, 200.0), "rum": Cost(2.0, 1.5, 50.0)}
    figure = figures.costs(measured, BASELINES)
    write, read, train = figure.axes
    assert labels(write) == ["ntm", "rum", "window_only"]
    assert [(xs, row) for xs, row, _ in marks(write, "o")] == [([8.0], 0), ([2.0], 1)]
    assert [(xs, row) for xs, row, _ in marks(read, "o")] == [([1.0], 0), ([1.5], 1), ([0.5], 2)]
    assert marks(train, "o")[2] == ([10.0], 2, FAINT)
    assert all(axes.get_xscale() == "log" for axes in figure.axes)


def test_a_saved_figure_is_not_blank() -> None:
    pixels = drawn(figures.auc_by_candidate(OUTCOMES, BASELINES))
    height, width = pixels.shape[:2]
    assert width == 800
    assert height == 278
    inked = (pixels[..., :3] < 0.9).any(axis=2)
    assert 0.005 < inked.mean() < 0.5
    halves = (inked[:, : width // 2].mean(), inked[:, width // 2 :].mean())
    assert min(halves) > 0.003
