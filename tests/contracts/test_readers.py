"""Every reader keeps the contract of rm_rec.testing, for slots as large as tokens, smaller and larger."""

import pytest
from pydantic import TypeAdapter

from rm_rec.config import Reader as ReaderConfig
from rm_rec.readers import READERS
from rm_rec.testing import READER_CHECKS, ReaderCase
from rm_rec.testing.reader_case import SLOT_DIMS
from tests.support.fakes import READERS as SETTINGS

CASES = [
    pytest.param(name, check, dim, id=f"{check}-{name}-{dim}")
    for name in SETTINGS
    for check in READER_CHECKS
    for dim in SLOT_DIMS
]


@pytest.mark.parametrize(("name", "check", "slot_dim"), CASES)
def test_a_reader_keeps_its_contract(name: str, check: str, slot_dim: int) -> None:
    config: ReaderConfig = TypeAdapter(ReaderConfig).validate_python(SETTINGS[name])
    READER_CHECKS[check](ReaderCase(READERS[config.kind], config, slot_dim))


def test_no_reader_is_left_out() -> None:
    assert {settings["kind"] for settings in SETTINGS.values()} == set(READERS)
