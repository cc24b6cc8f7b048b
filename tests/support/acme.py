"""The package acme_memory in tests/outside: other people's code, as it were."""

import os
import sys
from pathlib import Path

OUTSIDE = Path(__file__).parents[1] / "outside"


def was_imported() -> bool:
    """Whether acme_memory has been imported here since it was last forgotten."""
    return "ACME_MEMORY_WAS_IMPORTED" in os.environ or "acme_memory" in sys.modules


def forget() -> None:
    """Make it as if acme_memory had never been imported."""
    os.environ.pop("ACME_MEMORY_WAS_IMPORTED", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_memory"]:
        del sys.modules[name]
