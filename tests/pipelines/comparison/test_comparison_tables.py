"""The tables have every candidate once, each figure where it belongs, and nothing where there is nothing."""

from dataclasses import replace

import pytest

from pipelines.comparison.costs import Cost
from pipelines.comparison.outcomes import LogOutcomes
from pipelines.comparison.tables import by_validation, report, seeds_text
from rm_rec.evaluation.report import Estimate
from tests.pipelines.comparison.comparison_results import NTM, OUTCOMES, REHEARSED, WINDOW, WORSE, seeds

COSTS = {"window_only": Cost(0.0, 0.52, 12.34), "ntm": Cost(7.891, 1.0, 200.0)}


def tables(text: str) -> list[list[list[str]]]:
    """Take the Markdown's tables apart, without the lines beneath their headers."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def written(found: LogOutcomes = OUTCOMES, costs: dict[str, Cost] | None = None) -> list[list[list[str]]]:
    return tables(report([found], costs or {}, 32))


def test_the_main_table_is_by_validation_with_gains_and_their_signs() -> None:
    main = written()[0]
    assert main[0] == [
        *("", "seeds", "test AUC", "95 % interval", "gain", "AUC inside users", "validation AUC", "learning rate")
    ]
    gain, other, inside = "+0.0900 (+0.0500 to +0.1300)", "+0.0900 (+0.0400 to +0.1200)", "0.6600 ± 0.0100"
    assert main[1:] == [
        ["ntm+rehearsal", "2", "0.7100 ± 0.0200", "0.6700 to 0.7500", other, "", "0.7350 ± 0.0350", "0.006"],
        ["ntm", "2", "0.7100 ± 0.0100", "0.6800 to 0.7400", gain, inside, "0.7300 ± 0.0200", "0.006"],
        ["window_only", "2", "0.6200 ± 0.0200", "0.5900 to 0.6600", "", "0.5550 ± 0.0050", "0.6200 ± 0.0100", "0.003"],
        ["rum", "2", "0.5200 ± 0.0100", "", "-0.1000 (-0.1500 to -0.0500)", inside, "0.5100 ± 0.0100", "0.006"],
    ]
    assert [one.candidate for one in by_validation(OUTCOMES)] == [row[0] for row in main[1:]]


def test_rehearsal_is_subtracted_seed_by_seed() -> None:
    # On test 0.03 and -0.03, on validation -0.01 and 0.02.
    assert written()[1] == [
        ["", "off", "on", "gain, test", "gain, validation"],
        ["ntm", "0.7100 ± 0.0100", "0.7100 ± 0.0200", "+0.0000 ± 0.0300", "+0.0050 ± 0.0150"],
    ]


@pytest.mark.parametrize(
    ("of_seeds", "gains"),
    [
        ((1, 2), ["+0.0100", "-0.0500"]),  # the first with rehearsal against the second without
        ((2, 1), ["-0.0300", "+0.0200"]),
        ((5, 6), ["", ""]),
    ],
)
def test_seeds_are_paired_by_what_they_are(of_seeds: tuple[int, int], gains: list[str]) -> None:
    found = replace(OUTCOMES, outcomes=(NTM, replace(REHEARSED, seeds=of_seeds)))
    assert written(found)[1][1][3:] == gains


def test_without_rehearsed_candidates_there_is_no_such_table() -> None:
    text = report([replace(OUTCOMES, outcomes=(WINDOW, REHEARSED))], {}, 32)
    assert "Rehearsal on and off" not in text
    assert len(tables(text)) == 3
    assert "Rehearsal on and off" in report([OUTCOMES], {}, 32)


def test_bins_are_in_order_with_their_rows_and_empty_where_nothing_is_known() -> None:
    _, _, ages, popularity = written()
    assert ages[0] == ["", "0", "3-4", "17+", "never"]
    assert ages[1] == ["rows", "1,000", "50", "49", "100"]
    assert [row[0] for row in ages[2:]] == ["ntm+rehearsal", "ntm", "window_only", "rum"]
    assert ages[4] == ["window_only", "0.710", "0.500", "0.515", "0.460"]
    assert popularity[0] == ["", "0", "1-9", "10-99"]
    assert popularity[1] == ["rows", "1,100", "60", "74"]
    assert popularity[3] == ["ntm", "0.680", "", ""]
    assert popularity[4] == ["window_only", "0.670", "", "0.610"]


def test_each_log_has_its_section_and_says_what_gains_are_over() -> None:
    other = replace(OUTCOMES, log="other", known_age=False, best_possible=None, outcomes=(NTM, WINDOW))
    text = report([OUTCOMES, other], {}, 16)
    first, second = text.split("## ")[1:]
    assert first.startswith("my_log\n")
    assert "1,234 test impressions of 56 users; best possible AUC 0.8100. Gains are over window_only." in first
    assert "AUC by age of the deciding event, in segments of 16 events, among the impressions of that age:" in first
    assert second.startswith("other\n")
    assert "1,234 test impressions of 56 users. Gains are over ntm." in second
    assert "AUC by age of the user's last event on the item, in segments of 16 events, of such clicks" in second
    assert "## Cost" not in text


def test_costs_are_in_a_table_of_their_own() -> None:
    *_, table = written(costs=COSTS)
    assert table == [
        ["", "bytes a user", "write, µs an event", "read, ms", "train, µs an impression", "impressions a second"],
        ["window_only", "0", "", "0.52", "12.3", "81,037"],
        ["ntm", "2,046", "7.89", "1.00", "200.0", "5,000"],
    ]


def test_one_seed_has_no_spread() -> None:
    assert seeds_text(seeds(0.5)) == "0.5000"
    assert seeds_text(seeds(0.5, 0.7, 0.5)) == "0.5667 ± 0.1000"
    ones = [replace(one, seeds=(0,), test=seeds(0.6), validation=seeds(0.5)) for one in (NTM, REHEARSED)]
    assert written(replace(OUTCOMES, outcomes=tuple(ones)))[1][1] == ["ntm", "0.6000", "0.6000", "+0.0000", "+0.0000"]


def test_a_gain_without_interval_is_a_figure_alone() -> None:
    found = replace(OUTCOMES, outcomes=(WINDOW, replace(WORSE, gain=Estimate(-0.1, None, None))))
    assert written(found)[0][2][4] == "-0.1000"
