"""The examples in docstrings run, and say what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rm_rec", "feature_store", "pipelines")


def modules_with_examples(package: str) -> list[str]:
    """Name the modules whose text has examples, without importing any."""
    files = (path for path in sorted((ROOT / package).rglob("*.py")) if ">>> " in path.read_text())
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]


MODULES = {package: modules_with_examples(package) for package in PACKAGES}


@pytest.mark.parametrize("name", [name for names in MODULES.values() for name in names])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0, "its >>> stand where doctest does not look"
    assert found.failed == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_shows_examples(package: str) -> None:
    """That each name which rm_rec offers has one: tests/rm_rec/test_imports.py."""
    assert MODULES[package]
