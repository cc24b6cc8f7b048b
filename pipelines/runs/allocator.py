"""What the C library does with freed memory."""

import ctypes
import os
import sys
from typing import Final

# Parameters of mallopt(3) and their values.
_M_TRIM_THRESHOLD: Final = -1, 2**31 - 1
_M_TOP_PAD: Final = -2, 2**28  # the heap grows by 256 MB of addresses, which need no memory until they are used
_M_MMAP_MAX: Final = -4, 0


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation instead of giving it back to the system; does nothing without glibc.

    Each training step allocates and frees tensors of some megabytes. glibc maps and unmaps each of these, so that the
    system clears their pages anew: a fifth of a step's time. A process then keeps as much memory as it once used.
    If torch is not imported yet, it will also ask the system for large pages.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX):
            mallopt(parameter, value)
