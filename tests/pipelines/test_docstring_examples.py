"""The examples in the docstrings of pipelines run."""

import doctest
import importlib
import pkgutil

import pytest

import pipelines

MODULES = sorted(module.name for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert doctest.testmod(importlib.import_module("pipelines.errors")).attempted > 0
