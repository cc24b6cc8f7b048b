"""The default store: one LMDB file in a folder, read by many processes while one writes.

Three sub-databases: "records" (bucket as two bytes, then the id's text -> record), "meta" (facts and journal as JSON)
and "deleted" (tombstones). Records of a bucket lie side by side, so that a write touches few pages. A record of more
than 4,080 bytes takes two pages of the file where a smaller one takes one. A deleted record's page is free at once and
overwritten by later writes; a store made with `copy` holds no byte of it.
"""

import errno
import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, final

import lmdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.stores import folders
from feature_store.stores.record import Memories, check, shown
from feature_store.stores.store import (
    Journal,
    MemoryStore,
    NoMemoriesError,
    StoreFacts,
    StoreWriter,
    parse,
    parse_facts,
)
from feature_store.stores.users import bucket_of, from_texts, texts, tombstones_of

DATA_FILE = "data.mdb"
# Address space, not disk: the file grows with what is written. 1 TiB holds 250 million users of a page each, and is a
# hundredth of what a 64-bit process can address.
MAP_SIZE = 1 << 40
_RECORDS, _META, _DELETED = b"records", b"meta", b"deleted"
_FACTS, _JOURNAL = b"facts", b"journal"
_BUCKET_BYTES = 2
_SCAN_ROWS = 8192
# Pages at a file's end may never have been written, if they were freed in the transaction that took them.
_PAGES_NEVER_WRITTEN = 64


def _identity(file: Path) -> tuple[int, int] | None:
    """Tell a file from another in its place, while it is open; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _lmdb_told(address: str) -> Iterator[None]:
    """Turn LMDB's errors into a DataError of one line."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise DataError(
            f"{address}: the store is full at {MAP_SIZE:,} bytes, the most it may take; make another store for part "
            "of the users. It is as its last committed step left it"
        ) from error
    except (lmdb.DiskError, lmdb.Error) as error:
        if "already open in this process" in str(error):
            raise DataError(
                f"{address}: this process has it open already, and LMDB allows that once; use that store, or close it"
            ) from error
        if error.code > 0:  # the system's own, not one of LMDB's
            raise folders.refusal(address, error.code) from error
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{address}: not a store of memories, or damaged ({reason}); restore a copy, or build the memories anew"
        ) from error


@final
class LmdbStore(MemoryStore):
    """Memories in an LMDB file: a read of 1,000 users takes milliseconds."""

    def __init__(self, place: str) -> None:
        """Open a folder."""
        self.address = f"lmdb:{place}"
        self._path = path = Path(place)
        with folders.refusals_told(self.address):
            there = (path / DATA_FILE).is_file()
        if not there:
            raise NoMemoriesError(f"{self.address}: no memories here (no {DATA_FILE}); build them first")
        with _lmdb_told(self.address):
            self._file = _identity(path / DATA_FILE)
            self._environment, self._can_write = self._open()
            try:
                self._refuse_truncated()
                self._records, self._meta, self._deleted = (
                    self._environment.open_db(name, create=False) for name in (_RECORDS, _META, _DELETED)
                )
                self.facts = parse_facts(self._read_meta(_FACTS), self.address)
            except BaseException:
                self._environment.close()
                raise

    @classmethod
    def create(cls, place: str, facts: StoreFacts) -> Self:
        """Make an empty store in a folder that must be new or empty."""

        def fill(draft: Path) -> None:
            with _lmdb_told(f"lmdb:{place}"), lmdb.open(str(draft), map_size=MAP_SIZE, max_dbs=3) as environment:
                names = {name: environment.open_db(name) for name in (_RECORDS, _META, _DELETED)}
                with environment.begin(write=True, db=names[_META]) as transaction:
                    transaction.put(_FACTS, facts.model_dump_json().encode())
                    transaction.put(_JOURNAL, Journal().model_dump_json().encode())

        folders.create_folder(Path(place), f"lmdb:{place}", fill)
        return cls(place)

    @classmethod
    def refuse_taken(cls, place: str) -> None:
        """Raise a DataError unless the folder is new or empty."""
        folders.refuse_taken(Path(place), f"lmdb:{place}")

    @classmethod
    def draft_of(cls, place: str) -> str:
        """Name a folder beside this one."""
        return str(folders.draft_of(Path(place)))

    @classmethod
    def settle(cls, draft: str, place: str) -> None:
        """Rename a folder."""
        folders.settle(Path(draft), Path(place), f"lmdb:{place}")

    @classmethod
    def discard(cls, place: str) -> None:
        """Remove a folder."""
        folders.discard(Path(place), f"lmdb:{place}")

    def _open(self) -> tuple[lmdb.Environment, bool]:
        """Open for writing too, so that `writer` can; what may only be read is opened so."""
        for can_write in (True, False):
            try:
                environment = lmdb.open(
                    str(self._path),
                    map_size=MAP_SIZE,
                    max_dbs=3,
                    max_readers=1024,
                    create=False,
                    readonly=not can_write,
                )
            except lmdb.Error as error:
                if not can_write or error.code not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
            else:
                return environment, can_write
        raise AssertionError

    def _refuse_truncated(self) -> None:
        """A page beyond the end of the file would end the process without a word."""
        pages = self._environment.info()["last_pgno"] + 1 - _PAGES_NEVER_WRITTEN
        expected, size = pages * self._environment.stat()["psize"], (self._path / DATA_FILE).stat().st_size
        if size < expected:
            raise DataError(
                f"{self.address}: {DATA_FILE} was cut off ({size:,} bytes, expected {expected:,} or more); restore a "
                "copy, or build the memories anew"
            )

    def _read_meta(self, key: bytes) -> bytes:
        with self._environment.begin(db=self._meta) as transaction:
            found: bytes | None = transaction.get(key)
        if found is None:
            raise DataError(f"{self.address}: damaged (no {key.decode()}); restore a copy, or build the memories anew")
        return found

    def _keys(self, users: pa.Array) -> list[bytes]:
        buckets = bucket_of(users, self.facts.num_buckets).astype(">u2").tobytes()
        starts = range(0, len(buckets), _BUCKET_BYTES)
        return [buckets[start : start + _BUCKET_BYTES] + text for start, text in zip(starts, texts(users), strict=True)]

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        with _lmdb_told(self.address), self._environment.begin(db=self._records, buffers=True) as transaction:
            rows = [transaction.get(key) for key in self._keys(users)]
            found = np.fromiter((row is not None for row in rows), bool, len(rows))
            there = users.filter(pa.array(found))
            kept = [row for row in rows if row is not None]
            return Memories.from_rows(self.facts.memory, there, kept, self.address), found

    def scan(self) -> Iterator[Memories]:
        """Read all records as they are now, whatever is written meanwhile."""
        schema = self.facts.memory
        with _lmdb_told(self.address), self._environment.begin(db=self._records, buffers=True) as transaction:
            pairs = ((bytes(key), row) for key, row in transaction.cursor())
            for _, of_bucket in itertools.groupby(pairs, lambda pair: pair[0][:_BUCKET_BYTES]):
                while batch := list(itertools.islice(of_bucket, _SCAN_ROWS)):
                    users = from_texts((key[_BUCKET_BYTES:] for key, _ in batch), schema.user_type)
                    memories = Memories.from_rows(schema, users, [row for _, row in batch], self.address)
                    check(memories, self.address)
                    yield memories

    def count(self) -> int:
        """Count the users who have a memory."""
        with _lmdb_told(self.address), self._environment.begin() as transaction:
            return int(transaction.stat(self._records)["entries"])

    def journal(self) -> Journal:
        """Read what was consumed."""
        with _lmdb_told(self.address):
            return parse(Journal, self._read_meta(_JOURNAL), self.address)

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        with _lmdb_told(self.address), self._environment.begin(db=self._deleted) as transaction:
            if not transaction.stat(self._deleted)["entries"]:
                return np.zeros(len(users), bool)
            kept = (transaction.get(hashed) is not None for hashed in tombstones_of(users))
            return np.fromiter(kept, bool, len(users))

    def tombstones(self) -> frozenset[bytes]:
        """Give the hashes of all deleted users."""
        with _lmdb_told(self.address), self._environment.begin(db=self._deleted) as transaction:
            return frozenset(transaction.cursor().iternext(values=False))

    def replaced(self) -> bool:
        """Say whether another file lies in the place of the one that is open, which is read to the end."""
        return _identity(self._path / DATA_FILE) != self._file

    def bytes_on_disk(self) -> int:
        """Measure the folder; a file keeps the pages that were freed, for later writes."""
        return folders.bytes_on_disk(self._path, self.address)

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        if not self._can_write:
            raise folders.refusal(self.address, errno.EACCES)
        with folders.exclusive(self._path, self.address):
            self._environment.reader_check()  # readers that were killed would keep freed pages from being used again
            yield _LmdbWriter(self, self._environment, self._records, self._meta, self._deleted)

    def close(self) -> None:
        """Close the file."""
        self._environment.close()


@final
class _LmdbWriter(StoreWriter):
    def __init__(
        self,
        store: LmdbStore,
        environment: lmdb.Environment,
        records: lmdb._Database,
        meta: lmdb._Database,
        deleted: lmdb._Database,
    ) -> None:
        super().__init__(store)
        self._environment, self._records, self._meta, self._deleted = environment, records, meta, deleted
        self._keys = store._keys

    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        keys = self._keys(memories.users)
        longest = self._environment.max_key_size()
        for place, key in enumerate(keys):
            if len(key) > longest:
                raise DataError(
                    f"{self.store.address}: the id of user {shown(memories.users, place)[:40]}… is longer than the "
                    f"{longest - _BUCKET_BYTES} bytes that LMDB holds; keep these memories in parquet: or redis:"
                )
        with _lmdb_told(self.store.address), self._environment.begin(write=True) as transaction:
            rows = memories.rows()
            in_order = sorted(range(len(keys)), key=keys.__getitem__)
            transaction.cursor(self._records).putmulti((keys[place], rows[place]) for place in in_order)
            transaction.put(_JOURNAL, journal.model_dump_json().encode(), db=self._meta)

    def _finish(self, journal: Journal) -> None:
        with _lmdb_told(self.store.address), self._environment.begin(write=True, db=self._meta) as transaction:
            transaction.put(_JOURNAL, journal.model_dump_json().encode())

    def _delete(self, user: pa.Array) -> bool:
        (key,) = self._keys(user)
        with _lmdb_told(self.store.address), self._environment.begin(write=True) as transaction:
            transaction.put(tombstones_of(user)[0], b"", db=self._deleted)
            fits = len(key) <= self._environment.max_key_size()
            return fits and bool(transaction.delete(key, db=self._records))

    def _bury(self, tombstones: Collection[bytes]) -> None:
        with _lmdb_told(self.store.address), self._environment.begin(write=True) as transaction:
            for tombstone in sorted(tombstones):
                transaction.put(tombstone, b"", db=self._deleted)
