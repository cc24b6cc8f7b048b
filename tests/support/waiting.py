"""How tests wait: for what happens, not for a time."""

import time
from collections.abc import Callable

PATIENT = 240  # seconds: far more than is needed


def until(what: str, happened: Callable[[], bool]) -> None:
    """Return as soon as it has happened; fail with what was waited for where it does not."""
    deadline = time.monotonic() + PATIENT
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not after {PATIENT} seconds"
        time.sleep(0.02)
