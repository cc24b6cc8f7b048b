"""Every stop that docs/architecture.md names on an event's way is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
STOPS = sorted(set(re.findall(r"`((?:rm_rec|feature_store|pipelines)[\w.]*:[\w.]+)`", PAGE.read_text())))


def test_the_page_walks_through_all_three_packages() -> None:
    assert {stop.partition(".")[0] for stop in STOPS} == {"feature_store", "pipelines", "rm_rec"}
    assert len(STOPS) >= 20


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_is_a_name_in_the_code(stop: str) -> None:
    module, _, name = stop.partition(":")
    found: object = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert found.__doc__
