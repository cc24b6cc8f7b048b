"""docs/add-a-machine.md is true: its machine, put where the page says, is held to the contract, trained and served."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rm_rec.testing
from rm_rec.testing import MACHINE_CHECKS, READER_CHECKS, SOURCE_CHECKS
from tests.support.small_runs import ROOT, Ended, environment, run_forked

PAGE = (ROOT / "docs" / "add-a-machine.md").read_text()
MACHINE, TABLE = "rm_rec/machines/fading_mean.py", "rm_rec/machines/__init__.py"
SETTINGS = "rm_rec/config/machines.py"
PARITY = "tests/parity/test_fading_mean_formula.py"
OUTSIDE = "acme/machines.py"
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the code, and follow the page."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("rm_rec", "feature_store", "pipelines", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path in (MACHINE, PARITY):
        (copy / path).write_text(FILES[path])
    imported, line = FILES[TABLE].splitlines()
    table = (copy / TABLE).read_text()
    table = table.replace("\nfrom rm_rec.machines.", f"\n{imported}\nfrom rm_rec.machines.", 1)
    (copy / TABLE).write_text(table.replace("\n}\n", f"\n{line}\n}}\n", 1))
    write_settings(copy, FILES[SETTINGS])
    return copy


def write_settings(checkout: Path, shown: str) -> None:
    """Put the settings class and its line where the page says."""
    settings, line = shown.rstrip().rsplit("\n", 1)
    text = (ROOT / SETTINGS).read_text()
    text = text.replace("\n\nMACHINE_SETTINGS:", f"\n\n{settings.rstrip()}\n\n\nMACHINE_SETTINGS:", 1)
    (checkout / SETTINGS).write_text(text.replace("\n    NoMachine,", f"\n    {line.strip()}\n    NoMachine,", 1))


# Of the copied code, which takes seconds to import: job after job in one process.
ONE_BY_ONE = """
import importlib, json, sys
for module, *argv in json.load(open(sys.argv[1])):
    assert importlib.import_module(module).main(argv) == 0
"""


def run(checkout: Path, *arguments: object) -> Ended:
    """Run Python on the copied code in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout,
        env=environment() | {"PYTHONPATH": str(checkout)},
        timeout=500,
    )


def kept(checkout: Path, *tests: str, chosen: str = "fading_mean") -> Ended:
    return run(checkout, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests, "-k", chosen)


def test_the_page_shows_each_file() -> None:
    assert set(FILES) == {SETTINGS, MACHINE, TABLE, PARITY, OUTSIDE}


@pytest.mark.parametrize("checks", [MACHINE_CHECKS, READER_CHECKS, SOURCE_CHECKS], ids=["machine", "reader", "source"])
def test_the_page_names_every_check_and_no_other(checks: Mapping[str, object]) -> None:
    (kind,) = (name for name, value in vars(rm_rec.testing).items() if value is checks)
    (table,) = re.findall(rf"check \(in `{kind}`\) \|\n((?:\|.*\n)+)", PAGE)
    named = {name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split(" | ")[-1])}
    assert named == set(checks)


def test_the_page_names_tests_that_there_are() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "contracts").glob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) == 2
    assert all(f"def {name}(" in tests for name in named)


def test_the_example_keeps_the_contract_and_the_pages_own_tests_pass(checkout: Path) -> None:
    """In one process, which takes seconds to start."""
    (shown,) = re.findall(r"```python\n(import pytest\n.*?)```", PAGE, re.DOTALL)
    (checkout / "test_fading_mean.py").write_text(shown)
    others = ("tests/contracts", PARITY, "tests/rm_rec/test_memory_state.py", "tests/rm_rec/machines")
    ended = kept(checkout, "-vv", "test_fading_mean.py", *others)
    assert ended.returncode == 0, ended.stdout
    passed = re.findall(r"^(\S+)::\S+ PASSED", ended.stdout, re.MULTILINE)
    assert passed.count("test_fading_mean.py") == len(MACHINE_CHECKS) + 1
    for file in ("machines", "click_model", "user_memory"):
        assert passed.count(f"tests/contracts/test_{file}.py") >= len(MACHINE_CHECKS)
    assert {PARITY, "tests/rm_rec/test_memory_state.py", "tests/rm_rec/machines/test_sizes.py"} <= set(passed)
    assert run(checkout, "-m", "ruff", "check", MACHINE, SETTINGS, PARITY).returncode == 0
    assert run(checkout, "-m", "ruff", "format", "--check", MACHINE, SETTINGS, PARITY).returncode == 0


def test_the_same_machine_in_a_package_of_its_own_is_trained_as_the_page_says(
    quickstart: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put the page's settings and machine together in a package, each as the section without a fork shows it."""
    head, _, _ = FILES[OUTSIDE].partition("class FadingMeanMachine")
    _, _, machine = FILES[MACHINE].partition("class FadingMeanMachine")
    imports = "import math\nimport torch\nfrom torch import Tensor, nn\n"
    imports += "from rm_rec.machines.base import Slots, State, StateSpec\n"
    settings = head.replace("Field(8, ge=1, le=1024)", "Field(8, ge=1, le=1024)\n    longest: float = 64.0")
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").write_text("")
    (tmp_path / "acme" / "machines.py").write_text(imports + settings + "class FadingMeanMachine" + machine)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "acme.yaml").write_text(recipe)
    argv = quickstart(tmp_path / "run", "--training.epochs", "1", "--config", str(tmp_path / "acme.yaml"))
    for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
        del argv[argv.index(option) : argv.index(option) + 2]
    monkeypatch.syspath_prepend(str(tmp_path))
    refused = run_forked(tmp_path, "pipelines.train_ctr", *argv)
    assert (refused.returncode, "--allow-package acme" in refused.stderr) == (2, True)
    ended = run_forked(tmp_path, "pipelines.train_ctr", *argv, "--allow-package", "acme")
    assert ended.returncode == 0, ended.stderr
    assert '"acme.machines:FadingMeanMachine"' in (tmp_path / "run" / "model" / "model.json").read_text()


@pytest.mark.parametrize(
    ("file", "right", "wrong", "caught_by"),
    [
        (MACHINE, "segment.masked_fill(~valid[..., None], 0.0)", "segment", "padding_does_not_matter"),
        (SETTINGS, 'Literal["fading_mean"] = "fading_mean"', 'Literal["fading"] = "fading"', "configured_by_the_name"),
    ],
    ids=["padding", "kind"],
)
def test_an_example_gone_wrong_is_caught(checkout: Path, file: str, right: str, wrong: str, caught_by: str) -> None:
    assert right in FILES[file]
    before = (checkout / file).read_text()
    (checkout / file).write_text(before.replace(right, wrong))
    ended = kept(checkout, "tests/contracts/test_machines.py", chosen=caught_by)
    (checkout / file).write_text(before)
    assert ended.returncode == 1, ended.stdout
    assert re.search(rf"FAILED .*{caught_by}", ended.stdout)


def test_the_example_is_trained_stored_and_scored_as_the_page_says(
    checkout: Path, log: Path, quickstart: Callable[..., list[str]], tmp_path: Path
) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    train, build, score = (shlex.split(line)[2:] for line in block.replace("\\\n", " ").splitlines())
    events = pq.read_table(log)
    later = pa.array([int(max(events["timestamp"].to_pylist())) + 1] * 5)
    items = events.select(["user_id", "item_id"]).slice(0, 5).append_column("timestamp", later)
    pq.write_table(items, tmp_path / "candidates.parquet")
    places = {
        "runs/fading_mean": tmp_path / "run",
        "memories": tmp_path / "memories",
        "data/synthetic.parquet": log,
        "candidates.parquet": tmp_path / "candidates.parquet",
        "scores.parquet": tmp_path / "scores.parquet",
    }
    train, build, score = ([str(places.get(part, part)) for part in argv] for argv in (train, build, score))
    small = quickstart(tmp_path / "run", recipes=())
    for option in ("--model.machine.num_slots", "--model.machine.slot_dim"):
        del small[small.index(option) : small.index(option) + 2]
    jobs = [*train, *small, "--training.epochs", "1"], [*build, "--out", str(tmp_path / "build")], score
    (tmp_path / "jobs.json").write_text(json.dumps([*jobs, ["pipelines.train_ctr", "--help"]]))
    ended = run(checkout, "-c", ONE_BY_ONE, tmp_path / "jobs.json")
    assert ended.returncode == 0, ended.stderr
    assert '"kind": "fading_mean"' in (tmp_path / "run" / "model" / "model.json").read_text()
    assert pq.read_table(tmp_path / "scores.parquet")["prediction"].null_count == 0
    assert "kind fading_mean: Decaying means of events" in ended.stdout
