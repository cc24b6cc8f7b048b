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
_MARKS = {
    "lmdb": lmdb.DATA_FILE,
    "parquet": parquet_layout.FACTS,
}  # the file that marks a kind of store


def create_store(address: str, facts: StoreFacts) -> MemoryStore:
    """Create an empty store, in LMDB for a plain path; raises DataError if there is something there already."""
    kind, location = find_kind(address, new=True)
    return kind.create(location, facts)


def open_store(address: str) -> MemoryStore:
    """Open an existing store; raises NoMemoriesError if there is none, DataError if there is something else."""
    kind, location = find_kind(address, new=False)
    return kind(location)


def find_kind(address: str, *, new: bool) -> tuple[type[MemoryStore], str]:
    """Split an address into the class of its store and the location, which that class's methods take.

    A plain path is the store that is there already; for a new store, LMDB.
    """
    name, colon, location = address.partition(":")
    if colon and name in SCHEMES:
        return _redis_store(), address
    if location and name in _FOLDERS:
        return _FOLDERS[name], location
    if not address or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", address):
        shown = f"{name}:…" if colon else "an empty address"  # show no more: the rest may contain a password
        raise DataError(
            f"{shown} is not the address of a store; expected lmdb:PATH, parquet:PATH, redis://HOST:PORT/DB?name=NAME "
            "or a plain path (./PATH where it has a colon)"
        )
    if new:
        return _NEW_FOLDER, address
    with folders.system_errors_as_data_errors(address):
        for kind, mark in _MARKS.items():
            if (Path(address) / mark).is_file():
                return _FOLDERS[kind], address
    raise NoMemoriesError(f"{address}: no memories here (none of {', '.join(_MARKS.values())}); build them first")


def public_address(address: str) -> str:
    """Return an address as logs and reports may show it: that of a Redis server without user and password.

    >>> public_address("redis://:secret@cache/2?name=night"), public_address("parquet:memories")
    ('redis://cache:6379/2?name=night', 'parquet:memories')
    """
    return RedisAddress.parse(address).public if address.partition(":")[0] in SCHEMES else address


def _redis_store() -> type[MemoryStore]:
    """Import the store in Redis; raises DataError if the optional package redis is not installed."""
    try:
        from feature_store.stores.redis import RedisStore
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise DataError("stores in Redis need the package redis; run `pip install 'rm-rec[redis]'`") from error
    return RedisStore
