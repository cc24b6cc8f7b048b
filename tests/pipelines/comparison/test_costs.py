"""Costs are measured once for the same models, in the order of how much there is to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.comparison import costs
from pipelines.comparison.costs import Cost, kept_costs, measure_costs
from rm_rec.config import ModelConfig, RehearsalConfig

Model = tuple[ModelConfig, RehearsalConfig | None]


def model(machine: str, rehearsal: RehearsalConfig | None = None, window: Any = None, **settings: Any) -> Model:
    window = {"kind": "segments"} if window is None else window
    return ModelConfig.model_validate({"machine": {"kind": machine}, "window": window} | settings), rehearsal


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "NUM_EVENTS", 128)
    monkeypatch.setattr(costs, "_BATCH_USERS", 4)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Count what is measured, in place of measuring it."""
    asked: list[list[str]] = []

    def measured(models: costs.Models, rounds: int) -> dict[str, Cost]:
        asked.append([*models])
        return {name: Cost(1.5, rounds, 3.0 + len(asked)) for name in models}

    monkeypatch.setattr(costs, "measure_costs", measured)
    return asked


def test_costs_are_kept_for_the_same_models(tmp_path: Path, measurements: list[list[str]]) -> None:
    path, models = tmp_path / "costs.json", {"a": model("mean_pool"), "b": model("rum", RehearsalConfig())}
    first = kept_costs(path, models, 2)
    assert first == {"a": Cost(1.5, 2, 4.0), "b": Cost(1.5, 2, 4.0)}
    assert kept_costs(path, {"a": model("mean_pool"), "b": model("rum", RehearsalConfig())}, 2) == first
    assert measurements == [["a", "b"]]
    assert json.loads(path.read_text())["costs"]["a"] == {"write": 1.5, "read": 2, "train": 4.0}


@pytest.mark.parametrize(
    "others",
    [
        {"a": model("mean_pool"), "b": model("ntm")},
        {"a": model("mean_pool"), "b": model("rum")},
        {"a": model("mean_pool"), "b": model("rum", RehearsalConfig(num_layers=2))},
        {"a": model("mean_pool"), "c": model("rum", RehearsalConfig())},
        {"a": model("mean_pool")},
    ],
)
def test_other_models_are_measured(tmp_path: Path, measurements: list[list[str]], others: dict[str, Model]) -> None:
    kept_costs(tmp_path / "costs.json", {"a": model("mean_pool"), "b": model("rum", RehearsalConfig())}, 1)
    found = kept_costs(tmp_path / "costs.json", others, 1)
    assert [*found] == [*others]
    assert found["a"].train == 5.0
    assert len(measurements) == 2


def test_other_rounds_are_measured(tmp_path: Path, measurements: list[list[str]]) -> None:
    for rounds in (1, 2):
        kept_costs(tmp_path / "costs.json", {"a": model("mean_pool")}, rounds)
    assert len(measurements) == 2


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the operations of matrix products in place of seconds: the same on every machine, however busy."""

    def count(work: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return float(counter.get_total_flops())

    monkeypatch.setattr(costs, "_seconds", count)


@pytest.mark.usefixtures("operations")
def test_more_work_costs_more() -> None:
    models = {
        "window": model("none"),
        "mean": model("mean_pool"),
        "associative": model("associative"),
        "dnc": model("dnc"),
        "rehearsed": model("mean_pool", RehearsalConfig(num_layers=4)),
        "full": model("none", window={"kind": "whole_history"}),
    }
    threads = torch.get_num_threads()
    found = measure_costs(models, 3)
    assert torch.get_num_threads() == threads
    assert [*found] == [*models]
    assert found["window"].write == found["full"].write == 0
    assert found["dnc"].write > found["associative"].write > found["mean"].write == 0  # a mean is no product
    assert found["dnc"].train > found["associative"].train > found["mean"].train > found["window"].train > 0
    assert found["rehearsed"].train > found["mean"].train
    assert found["rehearsed"].read == found["mean"].read > found["window"].read > 0


@pytest.mark.usefixtures("operations")
def test_the_whole_history_is_read_at_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "training_step", lambda *settings: None)  # slow, of a history as long

    def read() -> dict[str, float]:
        models = {"window": model("none"), "full": model("none", window={"kind": "whole_history"})}
        return {name: cost.read for name, cost in measure_costs(models, 3).items()}

    short = read()
    monkeypatch.setattr(costs, "NUM_EVENTS", 4096)
    monkeypatch.setattr(costs, "_BATCH_USERS", 1)
    long = read()
    assert long["full"] > 3 * short["full"]
    assert long["full"] > 3 * long["window"]


def test_figures_are_of_one_event_one_user_and_one_impression(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first round, in which everything is slow, does not count; of the others the middle one does.
    seconds = iter([9.0, 9.0, 9.0, *(1.0, 0.2, 4.0), *(3.0, 0.1, 5.0), *(2.0, 0.3, 6.0)])
    monkeypatch.setattr(costs, "_works", lambda *settings: (print, print, print))
    monkeypatch.setattr(costs, "_seconds", lambda work: next(seconds))
    found = measure_costs({"a": model("mean_pool")}, 3)["a"]
    assert found.write == pytest.approx(1e6 * 2.0 / (4 * 128))
    assert found.read == pytest.approx(1e3 * 0.2)
    assert found.train == pytest.approx(1e6 * 5.0 / (4 * 128 * 2))


def test_models_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def seconds(work: str) -> float:
        turns.append(work)
        return 1.0

    monkeypatch.setattr(costs, "_works", lambda config, rehearsal: (config.machine.kind,) * 3)
    monkeypatch.setattr(costs, "_seconds", seconds)
    measure_costs({"a": model("mean_pool"), "b": model("rum")}, 1)
    assert turns == ["mean_pool", "mean_pool", "mean_pool", "rum", "rum", "rum"] * 2
