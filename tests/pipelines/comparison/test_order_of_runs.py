"""A comparison tunes on each log by itself, and trains the best and the baselines on the logs that are theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.compare_machines import CompareMachines
from pipelines.compare_machines.job import Comparison
from pipelines.comparison.plan import Plan
from pipelines.train_ctr import TrainCtr

FIRST, OTHER = "delicious_tags", "foursquare_nyc"


class Grid:
    """Runs nothing: on the first log the slow rate is the better one, on the other the fast one; rum is the best."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self, runs: Mapping[str, TrainCtr], jobs: int) -> dict[str, dict[str, Any]]:
        self.asked += runs
        return {name: {"validation": {"auc": self.auc(name)}} for name in runs}

    @staticmethod
    def auc(name: str) -> float:
        log, candidate, run = name.split("/")
        better = "lr-0.003" if log == FIRST else "lr-0.006"
        return 0.7 + 0.1 * (candidate == "rum") + 0.01 * run.startswith(better)


def test_each_log_is_tuned_by_itself() -> None:
    settings = CompareMachines(
        logs=(FIRST,),
        logs_of_best=(OTHER,),
        num_best=1,
        baselines=("window_only",),
        candidates=("associative", "rum"),
        rehearsed=("rum",),
        seeds=2,
    )
    plan = Plan({log: Path("log.parquet") for log in (FIRST, OTHER)}, settings.learning_rates, 2, 2048, ())
    grid = Grid()
    Comparison(settings, plan, grid).train()
    rates = {(log, name): rate for log, name, rate in (run.split("/") for run in grid.asked if run.endswith("seed-1"))}
    slow, fast = "lr-0.003-seed-1", "lr-0.006-seed-1"
    assert rates == {
        **{(FIRST, name): slow for name in ("window_only", "associative", "rum", "rum+rehearsal")},
        **{(OTHER, name): fast for name in ("window_only", "rum")},
    }
    assert {f"{OTHER}/rum/{rate}-seed-0" for rate in ("lr-0.003", "lr-0.006")} <= set(grid.asked)
