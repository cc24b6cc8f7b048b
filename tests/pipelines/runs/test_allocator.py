"""Freed memory stays with the process, so that the next step's tensors need no new pages."""

import os
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pipelines.runs.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import torch
def fault_count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):  # until there is room for two: each is aligned, and so needs a little more than the last one left
    torch.ones(16_000_000)
before = fault_count()
for _ in range(8):
    torch.ones(16_000_000)
print(fault_count() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_freed_memory_is_used_again() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("THP_", "MALLOC_", "GLIBC_"))}

    def faults(name: str) -> int:
        command = [sys.executable, "-c", PROGRAM, name]
        return int(subprocess.run(command, capture_output=True, check=True, env=own).stdout)

    pages = 16_000_000 * 4 // resource.getpagesize()
    assert faults("given_back") > 4 * pages
    assert faults("kept") < pages
