"""Everyone tries the same learning rates and gets the same seeds, and only the validation split decides anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import resolved
from pipelines.comparison.plan import Plan, Trial, validation_auc

A, B = "delicious_tags", "quickstart"
RATES, SEEDS = (0.003, 0.006), 3
Metrics = dict[str, dict[str, Any]]


@pytest.fixture
def plan() -> Plan:
    arguments = ("--training.epochs", "7", "--metrics.resamples", "0")
    return Plan({A: Path("a.parquet"), B: Path("b.parquet")}, RATES, SEEDS, 1024, arguments)


def measured(*trials: tuple[str, str, float, int, float], test: float = 0.5) -> Metrics:
    """Fabricate the metrics of finished runs: (log, candidate, rate, seed, validation AUC)."""
    return {
        Trial(log, name, rate, seed).name: {"validation": {"auc": auc}, "test": {"auc": test}}
        for log, name, rate, seed, auc in trials
    }


def tuned(log: str, aucs: Mapping[str, float], rate: float = 0.003) -> Metrics:
    """Fabricate first seeds of both rates, of which one is better by a little."""
    slow, fast = RATES
    return measured(
        *((log, name, slow, 0, auc - 0.001 * (rate != slow)) for name, auc in aucs.items()),
        *((log, name, fast, 0, auc - 0.001 * (rate != fast)) for name, auc in aucs.items()),
    )


def test_all_try_every_rate_with_the_first_seed(plan: Plan) -> None:
    trials = plan.tuning([A, B], ["ntm", "din_50", "rum"])
    assert {(one.log, one.candidate, one.learning_rate) for one in trials} == {
        (log, name, rate) for log in (A, B) for name in ("ntm", "din_50", "rum") for rate in RATES
    }
    assert len(trials) == 12
    assert {one.seed for one in trials} == {0}


def test_a_run_is_named_by_what_it_is(plan: Plan) -> None:
    assert Trial("recipes/mine.yaml", "models/big.yaml+rehearsal", 0.0005, 2).name == (
        "mine/big+rehearsal/lr-0.0005-seed-2"
    )
    assert len({one.name for one in plan.tuning([A, B], ["ntm", "rum"])}) == 8


def test_validation_chooses_and_test_does_not(plan: Plan) -> None:
    metrics = measured((A, "ntm", 0.003, 0, 0.71), test=0.5) | measured((A, "ntm", 0.006, 0, 0.70), test=0.9)
    assert plan.chosen(A, "ntm", metrics) == 0.003
    metrics |= measured((A, "ntm", 0.006, 0, 0.72), test=0.1)
    assert plan.chosen(A, "ntm", metrics) == 0.006
    assert validation_auc({"validation": {"auc": 0.6}, "test": {"auc": 0.9}}) == 0.6


def test_nothing_is_chosen_before_all_rates_are_tried(plan: Plan) -> None:
    metrics = measured((A, "ntm", 0.003, 0, 0.7), (B, "ntm", 0.006, 0, 0.7), (A, "ntm", 0.006, 1, 0.7))
    assert plan.chosen(A, "ntm", metrics) is None
    assert plan.seeds([A, B], ["ntm"], metrics) == []


def test_only_the_first_seed_tunes(plan: Plan) -> None:
    metrics = tuned(A, {"ntm": 0.7}, rate=0.003) | measured((A, "ntm", 0.006, 1, 0.99))
    assert plan.chosen(A, "ntm", metrics) == 0.003


def test_rehearsal_takes_the_rate_that_is_best_without(plan: Plan) -> None:
    metrics = tuned(A, {"ntm": 0.7}, rate=0.006)
    assert plan.chosen(A, "ntm+rehearsal", metrics) == 0.006
    metrics |= measured((A, "ntm+rehearsal", 0.003, 0, 0.99), (A, "ntm+rehearsal", 0.006, 0, 0.1))
    assert plan.chosen(A, "ntm+rehearsal", metrics) == 0.006
    assert plan.seeds([A], ["ntm+rehearsal"], metrics) == [Trial(A, "ntm+rehearsal", 0.006, s) for s in range(SEEDS)]


def test_seeds_come_seed_by_seed_at_each_ones_own_rate(plan: Plan) -> None:
    metrics = tuned(A, {"ntm": 0.7}, rate=0.006) | tuned(A, {"rum": 0.6}, rate=0.003) | tuned(B, {"rum": 0.6}, 0.006)
    trials = plan.seeds([A, B], ["ntm", "rum"], metrics)
    assert trials == [
        trial
        for seed in range(SEEDS)
        for trial in (Trial(A, "ntm", 0.006, seed), Trial(A, "rum", 0.003, seed), Trial(B, "rum", 0.006, seed))
    ]
    assert [one.name for one in trials if one.seed == 0 and one.name not in metrics] == []


def ranked(plan: Plan, of_a: Mapping[str, float], of_b: Mapping[str, float], names: Sequence[str], n: int) -> list[str]:
    return plan.best([A, B], names, tuned(A, of_a) | tuned(B, of_b), n)


def test_the_best_have_the_best_mean_rank_on_all_logs(plan: Plan) -> None:
    of_a = {"ntm": 0.9, "rum": 0.8, "dnc": 0.7, "hpmn": 0.6}
    of_b = {"ntm": 0.1, "rum": 0.51, "dnc": 0.5, "hpmn": 0.52}
    names = list(of_a)
    # Ranks: ntm 0 + 3, rum 1 + 1, dnc 2 + 2, hpmn 3 + 0. The mean AUC would put hpmn third.
    assert ranked(plan, of_a, of_b, names, 4) == ["rum", "ntm", "hpmn", "dnc"]
    assert ranked(plan, of_a, of_b, names, 2) == ["rum", "ntm"]
    assert plan.best([A], names, tuned(A, of_b), 1) == ["hpmn"]


def test_the_best_are_chosen_by_all_finished_seeds(plan: Plan) -> None:
    metrics = tuned(A, {"ntm": 0.7, "rum": 0.69}) | measured((A, "ntm", 0.003, 1, 0.5), (A, "rum", 0.003, 1, 0.7))
    assert plan.best([A], ["ntm", "rum"], metrics, 1) == ["rum"]
    # A seed at the rate that was not chosen does not count.
    assert plan.best([A], ["ntm", "rum"], metrics | measured((A, "ntm", 0.006, 1, 0.99)), 1) == ["rum"]


def test_the_best_are_not_chosen_by_the_test_split(plan: Plan) -> None:
    metrics = tuned(A, {"ntm": 0.7, "rum": 0.69})
    for name, values in metrics.items():
        values["test"]["auc"] = 0.9 if "rum" in name else 0.1
    assert plan.best([A], ["rum", "ntm"], metrics, 1) == ["ntm"]


def test_who_is_missing_on_a_log_is_left_out_of_the_ranks_too(plan: Plan) -> None:
    # Counted in, dnc would push rum behind hpmn on the first log.
    of_a = {"hpmn": 0.9, "dnc": 0.85, "rum": 0.8}
    of_b = {"rum": 0.9, "hpmn": 0.8}
    assert ranked(plan, of_a, of_b, ["rum", "dnc", "hpmn"], 3) == ["rum", "hpmn"]
    assert ranked(plan, of_a, {}, ["rum", "dnc", "hpmn"], 3) == []


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, value in settings.items():
        parts |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return parts


def different(plan: Plan, one: Trial, other: Trial) -> set[str]:
    left, right = (flat(resolved(plan.settings(trial))) for trial in (one, other))
    return {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


def test_a_seed_is_of_training_and_not_of_the_held_out_impressions(plan: Plan) -> None:
    first, second = Trial(A, "ntm", 0.003, 0), Trial(A, "ntm", 0.003, 2)
    assert different(plan, first, second) == {"training.seed"}
    assert plan.settings(second).training.seed == 2
    assert plan.settings(second).data.seed == plan.settings(first).data.seed == 0


def test_a_rate_is_the_networks(plan: Plan) -> None:
    first, second = Trial(A, "ntm", 0.003, 0), Trial(A, "ntm", 0.0001234567, 0)
    assert different(plan, first, second) == {"optimizer.lr"}
    assert plan.settings(second).optimizer.lr == 0.0001234567


def test_nothing_but_model_and_rehearsal_differs_between_candidates(plan: Plan) -> None:
    names = ("ntm", "din_50", "din_full", "memnn", "rum+rehearsal")
    differing = [different(plan, Trial(B, "window_only", 0.003, 0), Trial(B, name, 0.003, 0)) for name in names]
    assert all(key.partition(".")[0] in ("model", "rehearsal") for keys in differing for key in keys)
    runs = plan.runs([Trial(B, name, 0.003, 0) for name in names])
    assert [*runs] == [f"{B}/{name}/lr-0.003-seed-0" for name in names]
    for settings in runs.values():
        assert (settings.training.epochs, settings.metrics.resamples, settings.data.log) == (7, 0, "b.parquet")
