"""The commands that a job shows, in its --help and in its module's docstring, are read without a mistake."""

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest

import pipelines
from pipelines.cli import load_settings

JOBS = ("train_ctr", "evaluate", "build_memory", "score_batch", "promote", "make_log", "compare_machines")
ACTIONS = ("inspect", "copy", "delete-user")


class WasReadError(Exception):
    """The settings were read."""


COMMANDS = [*((job,) for job in JOBS), *(("memories", action) for action in ACTIONS)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_examples_are_read(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, *action = command
    module = importlib.import_module(f"pipelines.{job}")
    with pytest.raises(SystemExit):
        module.main([*action, "--help"])
    prog = shlex.join(["python", "-m", f"pipelines.{job}", *action])
    lines = [line.strip() for line in [*capsys.readouterr().out.splitlines(), *(module.__doc__ or "").splitlines()]]
    examples = [line for line in lines if line.startswith(f"{prog} ")]
    assert len(examples) > 1

    def load(*arguments: Any, **options: Any) -> None:
        load_settings(*arguments, **options)
        raise WasReadError

    monkeypatch.setattr(module, "load_settings", load)
    monkeypatch.chdir(Path(pipelines.__file__).parents[1])  # examples name recipes from there
    for example in examples:
        with pytest.raises(WasReadError):
            module.main(shlex.split(example)[3:])
