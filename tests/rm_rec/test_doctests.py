"""The examples in docstrings run, and say what they say."""

import doctest
import importlib
import pkgutil

import pytest

import rm_rec

MODULES = sorted(module.name for module in pkgutil.walk_packages(rm_rec.__path__, "rm_rec."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_plugin_shows_an_example() -> None:
    assert doctest.testmod(importlib.import_module("rm_rec.user_memory")).attempted > 0
