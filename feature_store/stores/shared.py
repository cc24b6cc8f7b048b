"""Stores that a process opens once and leaves open: what servers and the tasks of an engine read.

LMDB lets a process open a store once, and what asks for one (two models in a notebook, a server's threads) does not
know of the others. So the open stores are kept here, for the process, by address.
"""

import os
import threading
from pathlib import Path

from feature_store.stores.addresses import find_kind
from feature_store.stores.redis_address import SCHEMES
from feature_store.stores.store import MemoryStore

_open: dict[tuple[int, str], MemoryStore] = {}
_opening = threading.Lock()


def shared_store(address: str) -> MemoryStore:
    """Return the store of an address, opened once a process; nobody closes it.

    A store sees what others write to it. Where another store was put in its place since, that one is opened: its
    memory space may be another. Raises DataError where there is none.
    """
    kind, place = find_kind(address, new=False)
    where = place if place.partition(":")[0] in SCHEMES else str(Path(place).resolve())
    key = os.getpid(), f"{kind.__name__}:{where}"  # what a parent process has open is not the child's to use
    with _opening:
        store = _open.get(key)
        if store is None or store.replaced():
            # The old one is closed when the last read of it, in whatever thread, has let go of it.
            store = _open[key] = kind(place)
        return store
