"""Snapshots: memories in Parquet files, one a bucket, that any engine reads from PATH/current.

    duckdb -c "SELECT user, state_sum FROM read_parquet('PATH/current/*/*.parquet', hive_partitioning = true)"

Floats of a state lie as float32 lists, since float16 is not read by every engine, integers as int32 or int64 lists; the
values are exactly the record's. The columns are in `parquet_files`, the folders in `parquet_layout`. A read opens whole
row groups: for single users at request time there are the other stores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.stores import folders
from feature_store.stores.parquet_files import read_bucket
from feature_store.stores.parquet_layout import FACTS, Deleted, Layout
from feature_store.stores.parquet_writer import ParquetWriter
from feature_store.stores.record import Memories
from feature_store.stores.store import Journal, MemoryStore, NoMemoriesError, StoreFacts, StoreWriter, parse_facts
from feature_store.stores.users import bucket_of

_RETRIES = 5


@final
class ParquetStore(MemoryStore):
    """Memories in snapshots of Parquet files; readers see the last finished build."""

    def __init__(self, place: str) -> None:
        """Open a folder."""
        self.address = f"parquet:{place}"
        path = Path(place)
        self._layout = Layout(path, self.address)
        with folders.refusals_told(self.address):
            facts = (path / FACTS).read_bytes() if (path / FACTS).is_file() else None
        if facts is None:
            raise NoMemoriesError(f"{self.address}: no memories here (no {FACTS}); build them first")
        self._facts_text = facts
        self.facts = parse_facts(facts, f"{self.address}: {FACTS}")
        self._layout.snapshot()

    @classmethod
    def create(cls, place: str, facts: StoreFacts) -> Self:
        """Make an empty store in a folder that must be new or empty."""
        folders.create_folder(Path(place), f"parquet:{place}", lambda folder: Layout.fill(folder, facts))
        return cls(place)

    @classmethod
    def refuse_taken(cls, place: str) -> None:
        """Raise a DataError unless the folder is new or empty."""
        folders.refuse_taken(Path(place), f"parquet:{place}")

    @classmethod
    def draft_of(cls, place: str) -> str:
        """Name a folder beside this one."""
        return str(folders.draft_of(Path(place)))

    @classmethod
    def settle(cls, draft: str, place: str) -> None:
        """Rename a folder."""
        folders.settle(Path(draft), Path(place), f"parquet:{place}")

    @classmethod
    def discard(cls, place: str) -> None:
        """Remove a folder."""
        folders.discard(Path(place), f"parquet:{place}")

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        buckets = bucket_of(users, self.facts.num_buckets)
        for _ in range(_RETRIES):
            folder, snapshot = self._layout.snapshot()
            deleted, parts = self._layout.deleted(), [Memories.none(self.facts.memory)]
            try:
                for bucket in np.unique(buckets).tolist():
                    if bucket in snapshot.rows:
                        wanted = users.filter(pa.array(buckets == bucket))
                        parts += self._read(folder, bucket, deleted, wanted)
            except FileNotFoundError:
                if self._layout.snapshot()[0] == folder:
                    raise self._missing(folder) from None
                continue
            memories = Memories.concat(parts)
            place = pc.index_in(users, value_set=memories.users)
            return memories.select(place.drop_null().to_numpy()), place.is_valid().to_numpy(zero_copy_only=False)
        raise DataError(f"{self.address}: its snapshots are replaced faster than they can be read; try again")

    def _read(self, folder: Path, bucket: int, deleted: Deleted, wanted: pa.Array | None = None) -> Iterator[Memories]:
        """Read a bucket without the records of deleted users that a killed deletion has left."""
        file = self._layout.bucket_file(folder, bucket)
        for memories in read_bucket(file, self.facts.memory, self.address, wanted):
            yield memories.select(~deleted.has(memories.users)) if bucket in deleted.buckets else memories

    def _missing(self, folder: Path) -> DataError:
        return DataError(f"{self.address}: a bucket's file is missing in {folder.name}; build the memories anew")

    def scan(self) -> Iterator[Memories]:
        """Read all records of the snapshot that is current when the scan starts."""
        folder, snapshot = self._layout.snapshot()
        for bucket in sorted(snapshot.rows):
            try:
                yield from self._read(folder, bucket, self._layout.deleted())
            except FileNotFoundError:
                if self._layout.snapshot()[0] == folder:
                    raise self._missing(folder) from None
                raise DataError(f"{self.address}: its snapshot was replaced while it was read; read it again") from None

    def count(self) -> int:
        """Count the users who have a memory."""
        if self._layout.deleted().buckets:
            return sum(map(len, self.scan()))
        return sum(self._layout.snapshot()[1].rows.values())

    def journal(self) -> Journal:
        """Read what was consumed; while a build is under way this is ahead of what `get` reads."""
        _, snapshot = self._layout.snapshot()
        building = self._layout.building(snapshot.generation)
        return snapshot.journal if building is None else building.journal

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        return self._layout.deleted().has(users)

    def tombstones(self) -> frozenset[bytes]:
        """Give the hashes of all deleted users."""
        return frozenset(map(bytes.fromhex, self._layout.deleted().tombstones))

    def replaced(self) -> bool:
        """Say whether the folder has other facts by now, or is gone."""
        try:
            return (self._layout.path / FACTS).read_bytes() != self._facts_text
        except OSError:
            return True

    def bytes_on_disk(self) -> int:
        """Measure the folder: the current snapshot, the one before, and the build under way."""
        return folders.bytes_on_disk(self._layout.path, self.address)

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        with folders.exclusive(self._layout.path, self.address):
            yield ParquetWriter(self, self._layout)

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""
