"""Curves by age show each bin once, with its count, and draw no point where there are too few rows."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipelines.evaluation.figures.retention import auc_by_age, recollection_by_age
from rm_rec.evaluation.by_age import AgePoint, Answers, Curve, RankingByAge, Recollection
from rm_rec.evaluation.report import Estimate


def curve(rows: int = 200, **values: float | None) -> Curve:
    return {
        name.removeprefix("age").replace("_", "-").replace("plus", "+"): AgePoint(rows, Estimate(value, None, None))
        for name, value in values.items()
    }


def recollection(**values: float | None) -> Recollection:
    by_age = curve(**values)
    answers = Answers(by_age, AgePoint(1, Estimate(0.5, None, None)))
    return Recollection(memory=answers, alone=answers, another_user=None, chance=0.01)


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def points(figure: Figure, label: str) -> list[tuple[float, float]]:
    (container,) = [one for one in figure.axes[0].containers if one.get_label() == label]
    line = container.lines[0]  # type: ignore[attr-defined]
    return [(float(x), float(y)) for x, y in line.get_xydata()]


def saved(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_recollection_of_two_models_has_their_ages_in_order() -> None:
    figure = recollection_by_age(
        {"with": recollection(age17plus=0.1, age1=0.3, age3_4=None), "without": recollection(age1=0.2, age2=0.1)}, 32
    )
    saved(figure)
    top, counts = figure.axes
    assert [label.get_text() for label in counts.get_xticklabels()] == ["1", "2", "3-4", "17+"]
    assert [text.get_text() for text in counts.texts] == ["200"] * 4
    assert legend(figure) == [*("with", "without", "a guess: 1.0%", "with, fragment alone", "without, fragment alone")]
    assert [round(x) for x, _ in points(figure, "with")] == [0, 3]
    assert [y for _, y in points(figure, "without")] == [0.2, 0.1]
    assert top.get_ylim()[0] == 0
    assert counts.get_xlabel() == "Age of the event (segments of 32 events)"


@pytest.mark.parametrize("known_age", [True, False])
def test_auc_marks_where_the_window_ends_and_sets_never_apart(known_age: bool) -> None:
    never = AgePoint(80, Estimate(0.5, 0.4, 0.6))
    by_age = {**curve(age0=0.8, age1=0.7), **curve(rows=50, age2=0.6), **curve(rows=49, age3_4=0.99)}
    ranking = RankingByAge(known_age, by_age, never, curve(age0=0.9, age1=0.9) if known_age else None)
    figure = auc_by_age({"mine": ranking}, 32, window_segments=1)
    saved(figure)
    top, counts = figure.axes
    assert [label.get_text() for label in counts.get_xticklabels()] == ["0", "1", "2", "3-4", "never"]
    assert [text.get_text() for text in counts.texts] == ["200", "200", "50", "49", "80"]
    assert points(figure, "mine") == [(0, 0.8), (1, 0.7), (2, 0.6)]  # 49 rows are too few for a point
    expected = ["mine", *(["best possible"] if known_age else []), "to its right, only the memory has the event"]
    assert legend(figure) == expected
    (mark,) = [line for line in top.lines if line.get_label() == expected[-1]]
    np.testing.assert_allclose(np.asarray(mark.get_xdata()), 1.5)
    assert counts.get_ylabel() == ("Impressions" if known_age else "Clicks")


def test_nothing_to_mark_without_a_window_of_segments() -> None:
    figure = auc_by_age({"mine": RankingByAge(True, curve(age0=0.8, age1=0.7), None, None)}, 32)
    saved(figure)
    assert legend(figure) == ["mine"]
