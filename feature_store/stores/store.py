"""The interface of all stores of memories: reading, writing, the journal of builds, and deletion of users."""

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
from feature_store.stores.record import Memories, check, format_id
from feature_store.stores.users import bucket_of, typed
from rm_rec.config.base import Settings

FORMAT_VERSION = 1
Block = TypeVar("Block", bound=Settings)


class NoMemoriesError(DataError):
    """There is no store at an address yet; `create_store` can make one."""


class StoreFacts(Settings):
    """The properties of a store, fixed when it is created."""

    format_version: int = FORMAT_VERSION
    space_id: str
    """Identifier of the memory space that every state in the store belongs to."""
    memory: MemorySchema
    num_buckets: int = Field(ge=1, le=65_536)
    """Number of buckets that users are hashed into; each write changes one bucket."""


class SourceFile(Settings):
    """A file of events that a build consumed."""

    name: str
    sha256: str
    rows: int


class Build(Settings):
    """The files that one build consumed, and its counts."""

    id: str
    """Hash of the files and of the settings that the result depends on."""
    files: tuple[SourceFile, ...] = ()
    events: int = 0
    users: int = 0
    late: int = 0
    """Number of events older than the newest event in their user's memory."""
    skipped_deleted: int = 0
    """Number of events skipped because their users were deleted."""
    rebuilt_users: int = 0
    """Number of users whose memory was rebuilt from their whole history."""
    first_time: int | None = None
    last_time: int | None = None


class UnderWay(Settings):
    """A build that has started and not finished."""

    build: Build
    """The build, with its counts so far."""
    step: int
    """Number of buckets that are committed; a resumed build starts with this bucket."""


class Journal(Settings):
    """The list of builds; it is written in the same transaction as the memories that it describes."""

    builds: tuple[Build, ...] = ()
    under_way: UnderWay | None = None

    def after_newest(self) -> int:
        """Return the time just after the newest event of all builds, the one under way included.

        >>> Journal(builds=(Build(id="a", last_time=41), Build(id="b"))).after_newest()
        42
        """
        builds = [*self.builds, *([self.under_way.build] if self.under_way is not None else [])]
        return max((build.last_time for build in builds if build.last_time is not None), default=-1) + 1


class StoreWriter(ABC):
    """The only writer of a store; when a method returns, its changes are on disk and survive a crash of the process."""

    def __init__(self, store: "MemoryStore") -> None:
        self.store = store
        self.closed = False

    def write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        """Write memories of users in `bucket`, and the journal, in one transaction.

        Raises:
            DataError: a user is given twice, belongs to another bucket or was deleted; records have another structure
                or wrong checksums; the disk is full. The store is then unchanged.
        """
        self._check_open()
        facts, where = self.store.facts, self.store.address
        if not 0 <= bucket < facts.num_buckets:
            raise DataError(f"{where}: there is no bucket {bucket}; expected 0 to {facts.num_buckets - 1}")
        if memories.records.dtype != facts.memory.record_dtype:
            raise DataError(f"{where}: records are {memories.records.dtype}, expected {facts.memory.record_dtype}")
        memories = Memories(typed(memories.users, facts.memory.user_type, where), memories.records)
        users = memories.users
        if len(users.unique()) < len(users):
            raise DataError(f"{where}: a user is written twice at once; keep the last memory of each")
        misplaced = np.flatnonzero(bucket_of(users, facts.num_buckets) != bucket)
        if len(misplaced):
            raise DataError(f"{where}: user {format_id(users, misplaced[0])} does not belong to bucket {bucket}")
        deleted = np.flatnonzero(self.store.deleted(users))
        if len(deleted):
            raise DataError(f"{where}: user {format_id(users, deleted[0])} was deleted; leave deleted users out")
        check(memories, f"{where}: memories to write")
        self._write(bucket, memories, journal)

    def finish(self, journal: Journal) -> None:
        """End a build, which the journal lists as finished; now at the latest every reader sees its memories."""
        self._check_open()
        if journal.under_way is not None:
            raise DataError(
                f"{self.store.address}: build {journal.under_way.build.id} is still under way in the given "
                "journal; add it to `builds` and set `under_way` to None"
            )
        self._finish(journal)

    def delete(self, user: int | str) -> bool:
        """Delete a user's memory, and return whether there was one.

        A tombstone, a hash of the user's id, is stored so that later builds skip the user.
        """
        self._check_open()
        return self._delete(typed(pa.array([user]), self.store.facts.memory.user_type, self.store.address))

    def add_tombstones(self, tombstones: Collection[bytes]) -> None:
        """Store the tombstones of users deleted from another store; call it before any memory is written."""
        self._check_open()
        self._add_tombstones(tombstones)

    def _check_open(self) -> None:
        if self.closed:
            raise DataError(f"{self.store.address}: this writer is closed; open another with `store.writer()`")

    @abstractmethod
    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None: ...

    @abstractmethod
    def _finish(self, journal: Journal) -> None: ...

    @abstractmethod
    def _delete(self, user: pa.Array) -> bool: ...

    @abstractmethod
    def _add_tombstones(self, tombstones: Collection[bytes]) -> None: ...


class MemoryStore(ABC):
    """A store of memories, one record for each user.

    with open_store("lmdb:memories") as store:
        memories, has_memory = store.get(users)
    """

    address: str  # as `open_store` takes it, without any password
    facts: StoreFacts

    @abstractmethod
    def __init__(self, location: str) -> None:
        """Open a store; raises NoMemoriesError if there is none, DataError if it is damaged or something else.

        `location` is an address without its kind, such as a path, here and in all methods below.
        """

    @classmethod
    @abstractmethod
    def create(cls, location: str, facts: StoreFacts) -> Self:
        """Create an empty store; raises DataError if there is something at the location already."""

    @classmethod
    @abstractmethod
    def check_free(cls, location: str) -> None:
        """Raise DataError if there is something at the location, so that `create` would fail."""

    @classmethod
    @abstractmethod
    def draft_location(cls, location: str) -> str:
        """Return the location, on the same disk or server, where a store is written until it is complete."""

    @classmethod
    @abstractmethod
    def publish(cls, draft: str, location: str) -> None:
        """Move a complete store from its draft location to the final one; raises DataError if that is not free."""

    @classmethod
    @abstractmethod
    def remove(cls, location: str) -> None:
        """Remove a store, if there is one; raises LockedError if it is being written."""

    def get(self, users: pa.Array | pa.ChunkedArray) -> tuple[Memories, NDArray[np.bool_]]:
        """Return the memories of those users who have one, in the given order, and whether each given user has one.

        The latter is a boolean array [users], False for a null id.

        Raises:
            DataError: the ids have another type, or a record is damaged; the message names its user.
        """
        users = typed(users, self.facts.memory.user_type, self.address)
        has_memory = np.array(users.is_valid(), bool)
        memories, matches = self._find(users.drop_null())
        check(memories, self.address)
        has_memory[has_memory] = matches
        return memories, has_memory

    @abstractmethod
    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]: ...

    @abstractmethod
    def read_all(self) -> Iterator[Memories]:
        """Yield all memories, checked, bucket by bucket; each batch is from one bucket."""

    @abstractmethod
    def count(self) -> int:
        """Count the users who have a memory."""

    @abstractmethod
    def journal(self) -> Journal:
        """Return the journal, including the build under way."""

    def deleted(self, users: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return whether each user was deleted [users]."""
        users = typed(users, self.facts.memory.user_type, self.address)
        deleted = np.array(users.is_valid(), bool)
        deleted[deleted] = self._were_deleted(users.drop_null())
        return deleted

    @abstractmethod
    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]: ...

    @abstractmethod
    def tombstones(self) -> frozenset[bytes]:
        """Return the tombstones (hashes of ids) of all deleted users."""

    @abstractmethod
    def replaced(self) -> bool:
        """Return whether the store at the address is no longer this one; cheap enough to call at each request."""

    @abstractmethod
    def bytes_on_disk(self) -> int:
        """Return the size of the store in bytes: on disk, or in memory where it is kept there."""

    @contextmanager
    def writer(self) -> Iterator[StoreWriter]:
        """Open the store's only writer; raises LockedError at once if another process has it."""
        with self._writer() as writer:
            try:
                yield writer
            finally:
                writer.closed = True

    @abstractmethod
    def _writer(self) -> AbstractContextManager[StoreWriter]: ...

    @abstractmethod
    def close(self) -> None:
        """Close files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"


def parse(block: type[Block], text: str | bytes, where: str) -> Block:
    """Parse stored JSON; raises DataError if it is damaged or of another version."""
    try:
        return block.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise DataError(
            f"{where}: damaged, or written by another version ({reason}); restore a copy, or rebuild the memories"
        ) from error


def parse_facts(text: str | bytes, where: str) -> StoreFacts:
    """Parse a store's facts; raises DataError if they are damaged or have a format that this version cannot read."""
    facts = parse(StoreFacts, text, where)
    if facts.format_version != FORMAT_VERSION:
        raise DataError(
            f"{where}: format {facts.format_version}, this version reads {FORMAT_VERSION}; rebuild the memories"
        )
    return facts
