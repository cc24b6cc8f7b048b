"""Stores by address: `lmdb:PATH`, `parquet:PATH`, `redis://HOST:PORT/DB?name=NAME`, or a plain PATH."""

import re
from pathlib import Path

from feature_store.errors import DataError
from feature_store.stores import folders, lmdb, parquet_layout
from feature_store.stores.lmdb import LmdbStore
from feature_store.stores.parquet import ParquetStore
from feature_store.stores.redis_address import SCHEMES, RedisAddress
from feature_store.stores.store import MemoryStore, NoMemoriesError, StoreFacts

_FOLDERS: dict[str, type[MemoryStore]] = {"lmdb": LmdbStore, "parquet": ParquetStore}
_NEW_FOLDER = LmdbStore
_MARKS = {"lmdb": lmdb.DATA_FILE, "parquet": parquet_layout.FACTS}  # the file that tells the kind of a folder


def create_store(address: str, facts: StoreFacts) -> MemoryStore:
    """Make an empty store; where there is something already, a DataError. A plain path is LMDB's."""
    kind, place = find_kind(address, new=True)
    return kind.create(place, facts)


def open_store(address: str) -> MemoryStore:
    """Open a store that was made before; where there is none, or something else, a DataError."""
    kind, place = find_kind(address, new=False)
    return kind(place)


def find_kind(address: str, *, new: bool) -> tuple[type[MemoryStore], str]:
    """Tell an address's kind of store and its place, which is what the kind's methods take.

    A plain path is of the kind that lies there; for a new store it is LMDB's.
    """
    name, colon, place = address.partition(":")
    if colon and name in SCHEMES:
        return _redis_store(), address
    if place and name in _FOLDERS:
        return _FOLDERS[name], place
    if not address or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", address):
        shown = f"{name}:…" if colon else "an empty address"  # no more of it: a part may be a password
        raise DataError(
            f"{shown} is no store of memories; expected lmdb:PATH, parquet:PATH, redis://HOST:PORT/DB?name=NAME or a "
            "plain path (./PATH where it has a colon)"
        )
    if new:
        return _NEW_FOLDER, address
    with folders.refusals_told(address):
        for found, mark in _MARKS.items():
            if (Path(address) / mark).is_file():
                return _FOLDERS[found], address
    raise NoMemoriesError(f"{address}: no memories here (none of {', '.join(_MARKS.values())}); build them first")


def public_address(address: str) -> str:
    """Return an address as logs and reports may show it: that of a Redis server without user and password.

    >>> public_address("redis://:secret@cache/2?name=night"), public_address("parquet:memories")
    ('redis://cache:6379/2?name=night', 'parquet:memories')
    """
    return RedisAddress.parse(address).public if address.partition(":")[0] in SCHEMES else address


def _redis_store() -> type[MemoryStore]:
    """Import what talks to Redis, an optional part; DataError says how to install it."""
    try:
        from feature_store.stores.redis import RedisStore
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise DataError("stores in Redis need the package redis; run `pip install 'rm-rec[redis]'`") from error
    return RedisStore
