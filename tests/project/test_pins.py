"""Versions that are written in several places are the same in all of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIM = tomllib.loads((ROOT / "third_party" / "fbgemm_gpu_shim" / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def required() -> list[str]:
    """Every requirement of pyproject.toml, extras included."""
    return [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


@pytest.mark.parametrize("requirement", required())
def test_what_is_required_is_pinned_within_its_range(requirement: str) -> None:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    version = numbers(pinned()[normal(found[0])])
    bounds = re.findall(r"(>=|<|==)([\d.]+)", requirement)
    assert bounds or requirement == found[0], f"{requirement}: a bound that this test cannot read"
    for sign, bound in bounds:
        lowest = numbers(bound)
        holds = {">=": version >= lowest, "<": version < lowest, "==": version[: len(lowest)] == lowest}
        assert holds[sign], f"constraints.txt pins {found[0]} at {version}, pyproject.toml asks for {requirement}"


@pytest.mark.parametrize("file", ["Makefile", "requirements.txt", "README.md"])
def test_torch_is_installed_first_in_the_pinned_version(file: str) -> None:
    assert set(re.findall(r"torch==([\d.]+)", (ROOT / file).read_text())) == {pinned()["torch"]}


def test_the_shim_stands_for_the_fbgemm_of_torchrec() -> None:
    assert SHIM["dependencies"] == [f"fbgemm-gpu-cpu=={SHIM['version']}"]
    assert SHIM["version"] == pinned()["torchrec"]
    assert f"fbgemm-gpu=={SHIM['version']}" in (ROOT / "docs" / "dependencies.md").read_text()


def test_what_is_tried_next_is_one_step_on() -> None:
    tried = dict(re.findall(r"'([\w-]+)==([\d.]+)\.\*'", (ROOT / ".ci" / "newest").read_text()))
    assert set(tried) == {"torch", "torchrec", "fbgemm-gpu-cpu"}
    for name, version in tried.items():
        major, minor, *_ = numbers(pinned().get(name, SHIM["version"]))
        assert numbers(version) == (major, minor + 1), name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_actions_by_commit_and_may_only_read(workflow: Path) -> None:
    text = workflow.read_text()
    uses = re.findall(r"uses: (.+)", text)
    assert uses
    for one in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one), one
    read = yaml.safe_load(text)
    assert read["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in read["jobs"].values())


def test_the_first_python_of_ci_is_the_oldest_that_is_supported() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    pythons = [entry["python"] for entry in ci["jobs"]["test"]["strategy"]["matrix"]["include"]]
    assert PROJECT["requires-python"] == SHIM["requires-python"] == f">={pythons[0]}"
    assert len(set(pythons)) == 2


def test_hooks_before_a_commit_use_the_pinned_linters() -> None:
    """They run in .venv, which constraints.txt fills: a hook from elsewhere would have a version of its own."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert [hook["language"] for hook in hooks] == ["system"] * len(hooks)
    assert {hook["entry"].partition(" ")[0] for hook in hooks} == {".venv/bin/python", ".venv/bin/lint-imports"}
