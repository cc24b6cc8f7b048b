"""Stores that a process opens once and shares: for servers, notebooks and tasks of Spark.

LMDB lets a process open a store only once, and its users in one process (two models in a notebook, a server's threads)
do not know of each other. So the open stores of the process are kept here by address.
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
    """Return the store at an address, which is opened once in each process and never closed by its users.

    Reads see what other processes write. If another store has replaced it since, that one is opened; its memory space
    may differ. Raises NoMemoriesError if there is no store.
    """
    kind, location = find_kind(address, new=False)
    where = location if location.partition(":")[0] in SCHEMES else str(Path(location).resolve())
    key = os.getpid(), f"{kind.__name__}:{where}"  # a child process cannot use what its parent opened
    with _opening:
        store = _open.get(key)
        if store is None or store.replaced():
            # The old store closes when the last thread that reads it drops its reference.
            store = _open[key] = kind(location)
        return store
