import doctest
import importlib
import pkgutil

import pytest

import feature_store

MODULES = [module.name for module in pkgutil.walk_packages(feature_store.__path__, "feature_store.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
