"""The machine `rehearsal` of version 0.1 is `slot_gru` now; recipes, runs, models and memories of 0.1 still work."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import load_settings, resolved
from pipelines.compare_machines import CompareMachines
from pipelines.comparison.run_grid import RunGrid
from pipelines.errors import RunError
from pipelines.models.artifact import load_model
from pipelines.models.memory_space import space_id
from pipelines.runs.run_folder import RUN, claimed, deciding, result_of
from pipelines.runs.settings import TrackingConfig
from pipelines.train_ctr import TrainCtr
from pipelines.train_ctr.job import fingerprint_of
from rm_rec.config import MemoryConfig
from rm_rec.config import base as config_base
from rm_rec.config.machines import SlotGruMemory
from rm_rec.errors import RenamedWarning
from tests.support.small_runs import ROOT, run_forked

KEPT = ROOT / "tests" / "data" / "version_0_1"
RUN_OF_0_1: dict[str, Any] = json.loads((KEPT / "run.json").read_text())
ARGUMENTS: list[str] = RUN_OF_0_1["arguments"].split()
PRESENT = ["slot_gru" if argument == "rehearsal" else argument for argument in ARGUMENTS]
RENAMED = "machine.kind 'rehearsal' is now called 'slot_gru'"


@pytest.fixture(autouse=True)
def nothing_is_said_yet() -> Iterator[None]:
    config_base._warn.cache_clear()
    yield
    config_base._warn.cache_clear()


def training(*arguments: str) -> TrainCtr:
    return load_settings(TrainCtr, arguments, prog="", description="")


def renamed() -> Any:
    return pytest.warns(RenamedWarning, match=f"^{RENAMED}$")


def test_python_takes_the_former_name_and_says_the_present_one_once() -> None:
    with renamed() as said:
        config = MemoryConfig.model_validate({"machine": {"kind": "rehearsal", "num_slots": 3}})
        assert MemoryConfig.model_validate({"machine": {"kind": "rehearsal", "num_slots": 3}}) == config
    assert config.machine == SlotGruMemory(num_slots=3)
    assert len(said) == 1
    assert issubclass(said[0].category, FutureWarning)


def test_the_present_name_is_taken_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MemoryConfig.model_validate({"machine": {"kind": "slot_gru"}}).machine == SlotGruMemory()
        assert training(*PRESENT).model.machine == SlotGruMemory(num_slots=6)


def test_the_command_line_takes_the_former_name() -> None:
    with renamed():
        settings = training(*ARGUMENTS)
    assert settings == training(*PRESENT)


@pytest.mark.parametrize("kind", ["rehearsal", "slot_gru"])
def test_both_names_in_two_layers_are_one_kind(kind: str, tmp_path: Path) -> None:
    other = {"rehearsal": "slot_gru", "slot_gru": "rehearsal"}[kind]
    (tmp_path / "recipe.yaml").write_text(f"model: {{machine: {{kind: {kind}, num_slots: 3}}}}")
    with renamed():
        settings = training(
            "--data.log", "log", "--config", str(tmp_path / "recipe.yaml"), "--model.machine.kind", other
        )
    assert settings.model.machine == SlotGruMemory(num_slots=3)


def test_resolved_settings_of_a_registered_run_are_read() -> None:
    values = resolved(training(*PRESENT))
    assert values["model"]["machine"]["kind"] == "slot_gru"
    values["model"]["machine"]["kind"] = "rehearsal"
    with renamed():
        assert TrainCtr.model_validate(values) == training(*PRESENT)


@pytest.mark.parametrize("arguments", [ARGUMENTS, PRESENT])
def test_a_run_of_0_1_is_the_same_run(arguments: list[str], tmp_path: Path) -> None:
    settings = training(*arguments)
    assert deciding(resolved(settings)) == RUN_OF_0_1["settings"]
    assert fingerprint_of(settings, RUN_OF_0_1["log"]) == RUN_OF_0_1["fingerprint"]
    (tmp_path / RUN).write_text(json.dumps({"settings": RUN_OF_0_1["settings"]}))
    (tmp_path / "metrics.json").write_text('{"best_epoch": 1}')
    assert result_of(tmp_path, resolved(settings)) == {"best_epoch": 1}
    with claimed(tmp_path, resolved(settings)):
        pass


def test_another_machine_is_another_run_and_told_by_the_present_name(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text(json.dumps({"settings": RUN_OF_0_1["settings"]}))
    (tmp_path / "checkpoint").mkdir()
    settings = training("--data.log", "log", "--rehearsal", "null", "--model.machine.kind", "rum")
    with (
        pytest.raises(RunError, match=r"model\.machine\.kind is slot_gru there, rum here"),
        claimed(tmp_path, resolved(settings)),
    ):
        pass


def test_a_model_of_0_1_keeps_its_memory_space() -> None:
    before = json.loads((KEPT / "next_event" / "model" / "model.json").read_text())
    assert before["model"]["machine"]["kind"] == "rehearsal"
    with renamed():
        trained = load_model(KEPT / "next_event" / "model")
    assert trained.card.model.machine.kind == "slot_gru"
    assert space_id(trained.model, trained.vocabularies) == before["memory_space"]


def test_a_comparison_takes_the_former_name() -> None:
    with renamed():
        settings = load_settings(
            CompareMachines,
            ["--candidates", "rehearsal,ntm", "--rehearsed", "rehearsal"],
            prog="",
            description="",
        )
    assert settings.candidates == ("slot_gru", "ntm")
    assert settings.trained[-1] == "slot_gru+rehearsal"


def test_a_comparison_of_0_1_goes_on_in_its_folders(tmp_path: Path) -> None:
    grid = RunGrid(tmp_path, TrackingConfig())
    run, former = "log/slot_gru+rehearsal/seed-0", tmp_path / "log" / "rehearsal+rehearsal" / "seed-0"
    assert grid.folder(run) == tmp_path / run
    former.mkdir(parents=True)
    assert grid.folder(run) == former
    assert grid.folder("log/slot_gru/seed-0") == tmp_path / "log" / "slot_gru" / "seed-0"


def test_a_job_says_it_in_one_line(tmp_path: Path) -> None:
    argv = ("--model", KEPT / "next_event" / "model", "--data.log", KEPT / "log", "--out", tmp_path)
    ended = run_forked(tmp_path, "pipelines.evaluate", *argv, "--split", "null", "--metrics.resamples", "0")
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stderr.splitlines() if "slot_gru" in line] == [f"note: {RENAMED}"]
