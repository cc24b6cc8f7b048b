"""Snapshots: memories in Parquet files, one for each bucket, that any engine can read from PATH/current.

    duckdb -c "SELECT user, state_sum FROM read_parquet('PATH/current/*/*.parquet', hive_partitioning = true)"

Floats of a state are stored as float32 lists, since not every engine reads float16, integers as int32 or int64 lists;
the values equal the record's exactly. The columns are described in `parquet_files`, the folders in `parquet_layout`. A
read loads whole row groups: to look up single users at request time, use another store.
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

    def __init__(self, location: str) -> None:
        """Open the store in a folder."""
        self.address = f"parquet:{location}"
        path = Path(location)
        self._layout = Layout(path, self.address)
        with folders.system_errors_as_data_errors(self.address):
            facts = (path / FACTS).read_bytes() if (path / FACTS).is_file() else None
        if facts is None:
            raise NoMemoriesError(f"{self.address}: no memories here (no {FACTS}); build them first")
        self._facts_text = facts
        self.facts = parse_facts(facts, f"{self.address}: {FACTS}")
        self._layout.snapshot()

    @classmethod
    def create(cls, location: str, facts: StoreFacts) -> Self:
        """Create an empty store in a new or empty folder."""
        folders.create_folder(Path(location), f"parquet:{location}", lambda folder: Layout.fill(folder, facts))
        return cls(location)

    @classmethod
    def check_free(cls, location: str) -> None:
        """Raise DataError unless the folder is new or empty."""
        folders.check_free(Path(location), f"parquet:{location}")

    @classmethod
    def draft_location(cls, location: str) -> str:
        """Return the path of a hidden folder next to this one."""
        return str(folders.draft_path(Path(location)))

    @classmethod
    def publish(cls, draft: str, location: str) -> None:
        """Rename the draft folder."""
        folders.publish(Path(draft), Path(location), f"parquet:{location}")

    @classmethod
    def remove(cls, location: str) -> None:
        """Remove the folder."""
        folders.remove(Path(location), f"parquet:{location}")

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        buckets = bucket_of(users, self.facts.num_buckets)
        for _ in range(_RETRIES):
            folder, snapshot = self._layout.snapshot()
            deleted, parts = self._layout.deleted(), [Memories.none(self.facts.memory)]
            try:
                for bucket in np.unique(buckets).tolist():
                    if bucket in snapshot.rows:
                        selected = users.filter(pa.array(buckets == bucket))
                        parts += self._read(folder, bucket, deleted, selected)
            except FileNotFoundError:
                if self._layout.snapshot()[0] == folder:
                    raise self._missing(folder) from None
                continue
            memories = Memories.concat(parts)
            index = pc.index_in(users, value_set=memories.users)
            return memories.select(index.drop_null().to_numpy()), index.is_valid().to_numpy(zero_copy_only=False)
        raise DataError(f"{self.address}: its snapshots were replaced during {_RETRIES} reads; try again")

    def _read(
        self, folder: Path, bucket: int, deleted: Deleted, selected: pa.Array | None = None
    ) -> Iterator[Memories]:
        """Read a bucket, or the selected users in it, without records that an interrupted deletion has left."""
        file = self._layout.bucket_file(folder, bucket)
        for memories in read_bucket(file, self.facts.memory, self.address, selected):
            yield memories.select(~deleted.has(memories.users)) if bucket in deleted.buckets else memories

    def _missing(self, folder: Path) -> DataError:
        return DataError(f"{self.address}: the file of a bucket is missing in {folder.name}; rebuild the memories")

    def read_all(self) -> Iterator[Memories]:
        """Yield all memories of the snapshot that is current at the start of the call."""
        folder, snapshot = self._layout.snapshot()
        for bucket in sorted(snapshot.rows):
            try:
                yield from self._read(folder, bucket, self._layout.deleted())
            except FileNotFoundError:
                if self._layout.snapshot()[0] == folder:
                    raise self._missing(folder) from None
                raise DataError(f"{self.address}: its snapshot was replaced during the read; read it again") from None

    def count(self) -> int:
        """Count the users who have a memory."""
        if self._layout.deleted().buckets:
            return sum(map(len, self.read_all()))
        return sum(self._layout.snapshot()[1].rows.values())

    def journal(self) -> Journal:
        """Return the journal; during a build it is ahead of what `get` reads."""
        _, snapshot = self._layout.snapshot()
        building = self._layout.building(snapshot.generation)
        return snapshot.journal if building is None else building.journal

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        return self._layout.deleted().has(users)

    def tombstones(self) -> frozenset[bytes]:
        """Return the tombstones of all deleted users."""
        return frozenset(map(bytes.fromhex, self._layout.deleted().tombstones))

    def replaced(self) -> bool:
        """Return whether the folder now has other facts, or none."""
        try:
            return (self._layout.path / FACTS).read_bytes() != self._facts_text
        except OSError:
            return True

    def bytes_on_disk(self) -> int:
        """Return the size of the folder in bytes: the current snapshot, the one before, and the build under way."""
        return folders.bytes_on_disk(self._layout.path, self.address)

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        with folders.exclusive(self._layout.path, self.address):
            yield ParquetWriter(self, self._layout)

    def close(self) -> None:
        """Do nothing: files are open only during reads."""
