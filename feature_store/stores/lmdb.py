"""The default store: one LMDB file in a folder, read by many processes while one writes.

Three sub-databases: "records" (bucket as two bytes, then the id's text -> record), "meta" (facts and journal as JSON)
and "deleted" (tombstones). Records of one bucket are stored next to each other, so that a write changes few pages. A
record of more than 4,080 bytes takes two pages of the file, a smaller one takes one. The page of a deleted record is
free at once and is overwritten by later writes; a store made by `copy` contains no byte of it.
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
from feature_store.stores.record import Memories, check, format_id
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
# Address space, not disk: the file grows as records are written. 1 TiB holds 250 million users of one page each, and is
# a hundredth of what a 64-bit process can address.
MAP_SIZE = 1 << 40
_RECORDS, _META, _DELETED = b"records", b"meta", b"deleted"
_FACTS, _JOURNAL = b"facts", b"journal"
_BUCKET_BYTES = 2
_BATCH_ROWS = 8192
# Pages at the end of the file may never have been written, if they were freed in the transaction that allocated them.
_UNWRITTEN_PAGES = 64


def _identity(file: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, which differ after it is replaced; None if there is no file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _as_data_errors(address: str) -> Iterator[None]:
    """Turn LMDB's errors into DataError."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise DataError(
            f"{address}: the store is full: it has its largest size, {MAP_SIZE:,} bytes; create another store for part "
            "of the users (all committed steps are kept)"
        ) from error
    except (lmdb.DiskError, lmdb.Error) as error:
        if "already open in this process" in str(error):
            raise DataError(
                f"{address}: this process has it open already, which LMDB allows only once; use that store, or close it"
            ) from error
        if error.code > 0:  # from the operating system, not from LMDB
            raise folders.system_error(address, error.code) from error
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{address}: not a store of memories, or damaged ({reason}); restore a copy, or rebuild the memories"
        ) from error


@final
class LmdbStore(MemoryStore):
    """Memories in an LMDB file; reading 1,000 users takes milliseconds."""

    def __init__(self, location: str) -> None:
        """Open the store in a folder."""
        self.address = f"lmdb:{location}"
        self._path = path = Path(location)
        with folders.system_errors_as_data_errors(self.address):
            exists = (path / DATA_FILE).is_file()
        if not exists:
            raise NoMemoriesError(f"{self.address}: no memories here (no {DATA_FILE}); build them first")
        with _as_data_errors(self.address):
            self._file = _identity(path / DATA_FILE)
            self._environment, self._can_write = self._open()
            try:
                self._check_not_truncated()
                self._records, self._meta, self._deleted = (
                    self._environment.open_db(name, create=False) for name in (_RECORDS, _META, _DELETED)
                )
                self.facts = parse_facts(self._read_meta(_FACTS), self.address)
            except BaseException:
                self._environment.close()
                raise

    @classmethod
    def create(cls, location: str, facts: StoreFacts) -> Self:
        """Create an empty store in a new or empty folder."""

        def fill(draft: Path) -> None:
            with (
                _as_data_errors(f"lmdb:{location}"),
                lmdb.open(str(draft), map_size=MAP_SIZE, max_dbs=3) as environment,
            ):
                names = {name: environment.open_db(name) for name in (_RECORDS, _META, _DELETED)}
                with environment.begin(write=True, db=names[_META]) as transaction:
                    transaction.put(_FACTS, facts.model_dump_json().encode())
                    transaction.put(_JOURNAL, Journal().model_dump_json().encode())

        folders.create_folder(Path(location), f"lmdb:{location}", fill)
        return cls(location)

    @classmethod
    def check_free(cls, location: str) -> None:
        """Raise DataError unless the folder is new or empty."""
        folders.check_free(Path(location), f"lmdb:{location}")

    @classmethod
    def draft_location(cls, location: str) -> str:
        """Return the path of a hidden folder next to this one."""
        return str(folders.draft_path(Path(location)))

    @classmethod
    def publish(cls, draft: str, location: str) -> None:
        """Rename the draft folder."""
        folders.publish(Path(draft), Path(location), f"lmdb:{location}")

    @classmethod
    def remove(cls, location: str) -> None:
        """Remove the folder."""
        folders.remove(Path(location), f"lmdb:{location}")

    def _open(self) -> tuple[lmdb.Environment, bool]:
        """Open for reading and writing, or for reading alone where the file system allows no more."""
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

    def _check_not_truncated(self) -> None:
        """Raise DataError if the file was truncated: LMDB would crash the process when it reads a missing page."""
        pages = self._environment.info()["last_pgno"] + 1 - _UNWRITTEN_PAGES
        expected, size = pages * self._environment.stat()["psize"], (self._path / DATA_FILE).stat().st_size
        if size < expected:
            raise DataError(
                f"{self.address}: {DATA_FILE} was truncated ({size:,} bytes, expected {expected:,} or more); restore a "
                "copy, or rebuild the memories"
            )

    def _read_meta(self, key: bytes) -> bytes:
        with self._environment.begin(db=self._meta) as transaction:
            value: bytes | None = transaction.get(key)
        if value is None:
            raise DataError(f"{self.address}: damaged (no {key.decode()}); restore a copy, or rebuild the memories")
        return value

    def _keys(self, users: pa.Array) -> list[bytes]:
        buckets = bucket_of(users, self.facts.num_buckets).astype(">u2").tobytes()
        starts = range(0, len(buckets), _BUCKET_BYTES)
        return [buckets[start : start + _BUCKET_BYTES] + text for start, text in zip(starts, texts(users), strict=True)]

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        with (
            _as_data_errors(self.address),
            self._environment.begin(db=self._records, buffers=True) as transaction,
        ):
            rows = [transaction.get(key) for key in self._keys(users)]
            matches = np.fromiter((row is not None for row in rows), bool, len(rows))
            known = users.filter(pa.array(matches))
            existing = [row for row in rows if row is not None]
            return Memories.from_rows(self.facts.memory, known, existing, self.address), matches

    def read_all(self) -> Iterator[Memories]:
        """Yield all memories as of the start of the call, whatever is written meanwhile."""
        schema = self.facts.memory
        with (
            _as_data_errors(self.address),
            self._environment.begin(db=self._records, buffers=True) as transaction,
        ):
            pairs = ((bytes(key), row) for key, row in transaction.cursor())
            for _, of_bucket in itertools.groupby(pairs, lambda pair: pair[0][:_BUCKET_BYTES]):
                while batch := list(itertools.islice(of_bucket, _BATCH_ROWS)):
                    users = from_texts((key[_BUCKET_BYTES:] for key, _ in batch), schema.user_type)
                    memories = Memories.from_rows(schema, users, [row for _, row in batch], self.address)
                    check(memories, self.address)
                    yield memories

    def count(self) -> int:
        """Count the users who have a memory."""
        with _as_data_errors(self.address), self._environment.begin() as transaction:
            return int(transaction.stat(self._records)["entries"])

    def journal(self) -> Journal:
        """Return the journal."""
        with _as_data_errors(self.address):
            return parse(Journal, self._read_meta(_JOURNAL), self.address)

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        with _as_data_errors(self.address), self._environment.begin(db=self._deleted) as transaction:
            if not transaction.stat(self._deleted)["entries"]:
                return np.zeros(len(users), bool)
            deleted = (transaction.get(tombstone) is not None for tombstone in tombstones_of(users))
            return np.fromiter(deleted, bool, len(users))

    def tombstones(self) -> frozenset[bytes]:
        """Return the tombstones of all deleted users."""
        with _as_data_errors(self.address), self._environment.begin(db=self._deleted) as transaction:
            return frozenset(transaction.cursor().iternext(values=False))

    def replaced(self) -> bool:
        """Return whether the file at the path is another than the open one, which remains readable."""
        return _identity(self._path / DATA_FILE) != self._file

    def bytes_on_disk(self) -> int:
        """Return the size of the folder in bytes; LMDB keeps freed pages in its file for later writes."""
        return folders.bytes_on_disk(self._path, self.address)

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        if not self._can_write:
            raise folders.system_error(self.address, errno.EACCES)
        with folders.exclusive(self._path, self.address):
            self._environment.reader_check()  # clears killed readers, which would keep freed pages from being reused
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
        for index, key in enumerate(keys):
            if len(key) > longest:
                raise DataError(
                    f"{self.store.address}: the id of user {format_id(memories.users, index)[:40]}… is longer than the "
                    f"{longest - _BUCKET_BYTES} bytes that LMDB allows; store these memories in parquet: or redis:"
                )
        with _as_data_errors(self.store.address), self._environment.begin(write=True) as transaction:
            rows = memories.rows()
            key_order = sorted(range(len(keys)), key=keys.__getitem__)
            transaction.cursor(self._records).putmulti((keys[index], rows[index]) for index in key_order)
            transaction.put(_JOURNAL, journal.model_dump_json().encode(), db=self._meta)

    def _finish(self, journal: Journal) -> None:
        with (
            _as_data_errors(self.store.address),
            self._environment.begin(write=True, db=self._meta) as transaction,
        ):
            transaction.put(_JOURNAL, journal.model_dump_json().encode())

    def _delete(self, user: pa.Array) -> bool:
        (key,) = self._keys(user)
        with _as_data_errors(self.store.address), self._environment.begin(write=True) as transaction:
            transaction.put(tombstones_of(user)[0], b"", db=self._deleted)
            is_valid_key = len(key) <= self._environment.max_key_size()
            return is_valid_key and bool(transaction.delete(key, db=self._records))

    def _add_tombstones(self, tombstones: Collection[bytes]) -> None:
        with _as_data_errors(self.store.address), self._environment.begin(write=True) as transaction:
            for tombstone in sorted(tombstones):
                transaction.put(tombstone, b"", db=self._deleted)
