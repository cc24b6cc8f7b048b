"""The one protocol of all stores of memories: who wrote what, what was consumed, and how a user is deleted."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from feature_store.errors import DataError
from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.record import Memories, check, shown
from feature_store.stores.users import bucket_of, typed
from rm_rec.config.base import Settings

FORMAT_VERSION = 1
Block = TypeVar("Block", bound=Settings)


class NoMemoriesError(DataError):
    """There is no store at an address: one can be made."""


class StoreFacts(Settings):
    """What is fixed when a store is made."""

    format_version: int = FORMAT_VERSION
    space_id: str
    """The memory space of every state in the store."""
    memory: MemorySchema
    num_buckets: int = Field(ge=1, le=65_536)
    """Users are hashed into this many buckets; a write touches one."""


class SourceFile(Settings):
    """A file of events that a build consumed."""

    name: str
    sha256: str
    rows: int


class Build(Settings):
    """What one build consumed and wrote."""

    id: str
    files: tuple[SourceFile, ...] = ()
    events: int = 0
    users: int = 0
    late: int = 0
    """Events older than what their user's memory already held."""
    skipped_deleted: int = 0
    """Events of users who were deleted."""
    rebuilt_users: int = 0
    """Users whose memory was made anew from their whole history."""
    first_time: int | None = None
    last_time: int | None = None


class UnderWay(Settings):
    """A build that is not finished."""

    build: Build
    """Its counts so far."""
    step: int
    """How many of its steps are committed."""


class Journal(Settings):
    """The ledger of what was consumed; it changes in the transaction of the memories it speaks of."""

    builds: tuple[Build, ...] = ()
    under_way: UnderWay | None = None

    def after_newest(self) -> int:
        """Return the first moment at which every memory may answer, those of a build under way included.

        >>> Journal(builds=(Build(id="a", last_time=41), Build(id="b"))).after_newest()
        42
        """
        builds = [*self.builds, *([self.under_way.build] if self.under_way is not None else [])]
        return max((build.last_time for build in builds if build.last_time is not None), default=-1) + 1


class StoreWriter(ABC):
    """The one writer of a store; whatever it returns from is on disk and survives the death of the process."""

    def __init__(self, store: "MemoryStore") -> None:
        self.store = store
        self.closed = False

    def write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        """Put memories, all of users in `bucket`, and the journal, in one transaction.

        Raises:
            DataError: a user twice, of another bucket or deleted; records of another structure or not sealed; a disk
                that is full. The store is then as it was.
        """
        self._refuse_closed()
        facts, where = self.store.facts, self.store.address
        if not 0 <= bucket < facts.num_buckets:
            raise DataError(f"{where}: bucket {bucket} of {facts.num_buckets}")
        if memories.records.dtype != facts.memory.record_dtype:
            raise DataError(f"{where}: records of {memories.records.dtype}, expected {facts.memory.record_dtype}")
        memories = Memories(typed(memories.users, facts.memory.user_type, where), memories.records)
        users = memories.users
        if len(users.unique()) < len(users):
            raise DataError(f"{where}: one write has a user twice; keep the last memory of each")
        elsewhere = np.flatnonzero(bucket_of(users, facts.num_buckets) != bucket)
        if len(elsewhere):
            raise DataError(f"{where}: user {shown(users, elsewhere[0])} does not lie in bucket {bucket}")
        deleted = np.flatnonzero(self.store.deleted(users))
        if len(deleted):
            raise DataError(
                f"{where}: user {shown(users, deleted[0])} was deleted and stays so; leave deleted users out"
            )
        check(memories, f"{where}: what is to be written")
        self._write(bucket, memories, journal)

    def finish(self, journal: Journal) -> None:
        """End a build: the journal has it among its builds, and every reader sees what it wrote."""
        self._refuse_closed()
        if journal.under_way is not None:
            raise DataError(
                f"{self.store.address}: build {journal.under_way.build.id} is still under way in the journal"
            )
        self._finish(journal)

    def delete(self, user: int | str) -> bool:
        """Remove a user's memory for good; a tombstone keeps it from coming back. Returns whether there was one."""
        self._refuse_closed()
        return self._delete(typed(pa.array([user]), self.store.facts.memory.user_type, self.store.address))

    def bury(self, tombstones: Collection[bytes]) -> None:
        """Keep the tombstones of users whom another store deleted, before any memory is written here."""
        self._refuse_closed()
        self._bury(tombstones)

    def _refuse_closed(self) -> None:
        if self.closed:
            raise DataError(f"{self.store.address}: this writer was closed; open another with `store.writer()`")

    @abstractmethod
    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None: ...

    @abstractmethod
    def _finish(self, journal: Journal) -> None: ...

    @abstractmethod
    def _delete(self, user: pa.Array) -> bool: ...

    @abstractmethod
    def _bury(self, tombstones: Collection[bytes]) -> None: ...


class MemoryStore(ABC):
    """Memories at rest, one record a user.

    with open_store("lmdb:memories") as store:
        memories, found = store.get(users)
    """

    address: str  # what `open_store` opens, without any password
    facts: StoreFacts

    @abstractmethod
    def __init__(self, place: str) -> None:
        """Open what `create` made, by an address without its kind; anything else is a DataError."""

    @classmethod
    @abstractmethod
    def create(cls, place: str, facts: StoreFacts) -> Self:
        """Make an empty store; where there is something already, a DataError."""

    @classmethod
    @abstractmethod
    def refuse_taken(cls, place: str) -> None:
        """Raise a DataError where `create` would."""

    @classmethod
    @abstractmethod
    def draft_of(cls, place: str) -> str:
        """Name where a store may lie until it is whole: on the same disk or server."""

    @classmethod
    @abstractmethod
    def settle(cls, draft: str, place: str) -> None:
        """Give a whole store its name, which must be free."""

    @classmethod
    @abstractmethod
    def discard(cls, place: str) -> None:
        """Remove a store, if there is one; LockedError where it is being written."""

    def get(self, users: pa.Array | pa.ChunkedArray) -> tuple[Memories, NDArray[np.bool_]]:
        """Read the records of the users who have one, in the order asked, and say who has [users].

        Raises:
            DataError: ids of another type; a record that is damaged, naming its user.
        """
        users = typed(users, self.facts.memory.user_type, self.address)
        found = np.array(users.is_valid(), bool)
        memories, there = self._find(users.drop_null())
        check(memories, self.address)
        found[found] = there
        return memories, found

    @abstractmethod
    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]: ...

    @abstractmethod
    def scan(self) -> Iterator[Memories]:
        """Read all records, checked, bucket by bucket; each batch is of one bucket."""

    @abstractmethod
    def count(self) -> int:
        """Count the users who have a memory."""

    @abstractmethod
    def journal(self) -> Journal:
        """Read what was consumed, the build under way included."""

    def deleted(self, users: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Say which users [users] were deleted."""
        users = typed(users, self.facts.memory.user_type, self.address)
        known = np.array(users.is_valid(), bool)
        known[known] = self._were_deleted(users.drop_null())
        return known

    @abstractmethod
    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]: ...

    @abstractmethod
    def tombstones(self) -> frozenset[bytes]:
        """Give the hashes of all deleted users."""

    @abstractmethod
    def replaced(self) -> bool:
        """Say whether another store, or none, lies at the address by now; cheap enough to ask at each request."""

    @abstractmethod
    def bytes_on_disk(self) -> int:
        """Measure what the store takes; for a store in memory, that memory."""

    @contextmanager
    def writer(self) -> Iterator[StoreWriter]:
        """Open the store's one writer; LockedError, at once, where another is at work."""
        with self._writer() as writer:
            try:
                yield writer
            finally:
                writer.closed = True

    @abstractmethod
    def _writer(self) -> AbstractContextManager[StoreWriter]: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"


def parse(block: type[Block], text: str | bytes, where: str) -> Block:
    """Read a block of JSON at rest; DataError where it is damaged or of another version."""
    try:
        return block.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise DataError(
            f"{where}: damaged, or written by another version ({reason}); restore a copy, or build the memories anew"
        ) from error


def parse_facts(text: str | bytes, where: str) -> StoreFacts:
    """Read a store's facts; DataError where they are damaged or of a format that this version does not read."""
    facts = parse(StoreFacts, text, where)
    if facts.format_version != FORMAT_VERSION:
        raise DataError(
            f"{where}: format {facts.format_version}, this version reads {FORMAT_VERSION}; build the memories anew"
        )
    return facts
