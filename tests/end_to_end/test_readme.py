"""What the README shows is true: its Python runs, its commands are understood, the files it names are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.build_memory import BuildMemory
from pipelines.cli import load_settings
from pipelines.compare_machines import CompareMachines
from pipelines.evaluate import EvaluateConfig
from pipelines.make_log import MakeLog
from pipelines.memories import Inspect
from pipelines.promote import Promote
from pipelines.score_batch import ScoreBatch
from pipelines.train_ctr import TrainCtr

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGS = {
    "train_ctr": TrainCtr,
    "evaluate": EvaluateConfig,
    "make_log": MakeLog,
    "build_memory": BuildMemory,
    "score_batch": ScoreBatch,
    "memories inspect": Inspect,
    "promote": Promote,
    "compare_machines": CompareMachines,
}


def blocks(language: str) -> list[str]:
    """The README's blocks of one language; "" for those that name none."""
    inside = [block.partition("\n") for block in README.split("```")[1::2]]
    return [text for name, _, text in inside if name == language]


def commands() -> list[tuple[str, list[str]]]:
    """Every `python -m pipelines.JOB` of README and Makefile, with its arguments."""
    texts = [*blocks("sh"), (ROOT / "Makefile").read_text()]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    found = [re.search(r"-m pipelines\.(\w+)(.*)", line.partition(" #")[0]) for line in lines]
    # The action of `memories` is part of its name.
    parts = [(match[1], shlex.split(match[2])) for match in found if match]
    return [(f"{job} {argv[0]}", argv[1:]) if job == "memories" else (job, argv) for job, argv in parts]


def test_the_python_of_the_readme_runs() -> None:
    (block,) = blocks("python")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "{'sum': (2, 31, 32), 'count': (2, 31)}" in ran.stdout


@pytest.mark.parametrize(("job", "argv"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_is_understood(job: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    load_settings(CONFIGS[job], argv, prog=job, description="")


def test_there_are_commands_to_check() -> None:
    assert {job for job, _ in commands()} == set(CONFIGS)


def test_the_file_tree_names_what_is_there() -> None:
    (tree,) = blocks("")
    folder = ROOT
    for line in tree.splitlines():
        names = [name for name in line[: line.index("  ", 4) if "  " in line[4:] else None].split() if name]
        for name in names:
            if not line.startswith(" "):
                folder = ROOT / name
            path = folder if not line.startswith(" ") else folder / name
            assert path.exists(), f"README names {path.relative_to(ROOT)}"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (ROOT / target).exists(), target
