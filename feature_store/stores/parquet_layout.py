"""The files and folders of a store of snapshots.

    PATH/_store.json                             the facts
    PATH/_deleted.json                           tombstones, and the buckets that still have to be rewritten
    PATH/current -> snapshot-000003              replaced by one rename
    PATH/snapshot-000003/_snapshot.json          the journal, and how many users each bucket has
    PATH/snapshot-000003/bucket=007/memories.parquet
    PATH/.building/_building.json                the build under way: its journal and which files are committed
    PATH/.building/007-000001.parquet

A file that no JSON file names is ignored, so that replacing a JSON file by a rename is what commits a change.
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from feature_store.errors import DataError
from feature_store.files import sync_folder, write_text
from feature_store.stores import folders
from feature_store.stores.parquet_files import num_rows
from feature_store.stores.store import Journal, StoreFacts, parse
from feature_store.stores.users import tombstones_of
from rm_rec.config.base import Settings

FACTS = "_store.json"
_DELETED, _CURRENT, _SNAPSHOT, _FILE = "_deleted.json", "current", "_snapshot.json", "memories.parquet"
_BUILDING, _COMMITTED = ".building", "_building.json"
_RETRIES = 5


class Deleted(Settings):
    """The deleted users of a store."""

    tombstones: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    """Buckets whose files may still contain records of deleted users; readers skip those records."""

    def has(self, users: pa.Array) -> NDArray[np.bool_]:
        """Return whether each user was deleted [users]."""
        deleted = set(self.tombstones)
        if not deleted:
            return np.zeros(len(users), bool)
        return np.fromiter((tombstone.hex() in deleted for tombstone in tombstones_of(users)), bool, len(users))


class Snapshot(Settings):
    """The journal of a snapshot, and its buckets."""

    generation: int = 0
    """Number of finished builds; a deletion makes a snapshot of the same generation."""
    journal: Journal = Journal()
    rows: dict[int, int] = Field(default_factory=dict)
    """Number of users of each bucket; a bucket without users has no file and is left out."""


class Building(Settings):
    """The committed steps of the build that follows a generation of snapshots."""

    generation: int
    journal: Journal
    files: dict[int, str] = Field(default_factory=dict)
    """File of each bucket that was written; it contains the whole bucket."""
    writes: int = 0
    """Number of files written so far, from which the next file gets its name."""


@final
class Layout:
    """Reads the JSON files of a store and replaces them."""

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        self.building_folder = path / _BUILDING

    @staticmethod
    def fill(folder: Path, facts: StoreFacts) -> None:
        """Write the files of an empty store."""
        write_text(folder / FACTS, facts.model_dump_json(indent=2))
        write_text(folder / _DELETED, Deleted().model_dump_json())
        first = folder / _snapshot_name(0)
        first.mkdir()
        write_text(first / _SNAPSHOT, Snapshot().model_dump_json())
        (folder / _CURRENT).symlink_to(first.name)

    def snapshot(self) -> tuple[Path, Snapshot]:
        """Return the folder of the current snapshot, and its content."""
        folder = self.path / _CURRENT
        for _ in range(_RETRIES):
            with folders.system_errors_as_data_errors(self.address):
                folder = self.path / os.readlink(self.path / _CURRENT)
                try:
                    return folder, parse(Snapshot, (folder / _SNAPSHOT).read_bytes(), f"{self.address}: {_SNAPSHOT}")
                except FileNotFoundError:
                    continue  # a writer has just replaced it
        raise DataError(f"{self.address}: damaged (no {folder.name}/{_SNAPSHOT}); rebuild the memories")

    def building(self, generation: int) -> Building | None:
        """Return the build under way, if it follows this generation; files of a finished one may still be there."""
        with folders.system_errors_as_data_errors(self.address):
            try:
                text = (self.building_folder / _COMMITTED).read_bytes()
            except FileNotFoundError:
                return None
        building = parse(Building, text, f"{self.address}: {_COMMITTED}")
        return building if building.generation == generation else None

    def deleted(self) -> Deleted:
        """Return the deleted users."""
        with folders.system_errors_as_data_errors(self.address):
            return parse(Deleted, (self.path / _DELETED).read_bytes(), f"{self.address}: {_DELETED}")

    def bucket_file(self, folder: Path, bucket: int) -> Path:
        """Return the path of a bucket's file in a snapshot."""
        return folder / f"bucket={bucket:03d}" / _FILE

    def write_deleted(self, deleted: Deleted) -> None:
        """Commit the deleted users."""
        write_text(self.path / _DELETED, deleted.model_dump_json())

    def commit(self, building: Building) -> None:
        """Commit a step of the build under way, and remove files that it no longer names."""
        self.building_folder.mkdir(exist_ok=True)
        write_text(self.building_folder / _COMMITTED, building.model_dump_json())
        sync_folder(self.path)
        self.clear_building(building)

    def clear_building(self, building: Building | None) -> None:
        """Remove files of the build under way that are not committed; None removes its whole folder."""
        if building is None:
            shutil.rmtree(self.building_folder, ignore_errors=True)
            return
        for file in self.building_folder.iterdir():
            if file.name not in {_COMMITTED, *building.files.values()}:
                file.unlink()

    def swap(self, snapshot: Snapshot, new_files: dict[int, Path]) -> None:
        """Create a snapshot of new files and of hard links to unchanged ones, then make it the current one."""
        previous, _ = self.snapshot()
        folder = self.path / _snapshot_name(int(previous.name.rpartition("-")[2]) + 1)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rows = snapshot.rows | {bucket: num_rows(file) for bucket, file in new_files.items()}
        rows = {bucket: users for bucket, users in rows.items() if users}
        for bucket in rows:
            target = self.bucket_file(folder, bucket)
            target.parent.mkdir()
            os.link(new_files.get(bucket, self.bucket_file(previous, bucket)), target)
            sync_folder(target.parent)
        write_text(folder / _SNAPSHOT, snapshot.model_copy(update={"rows": rows}).model_dump_json())
        link = self.path / f".{_CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.path / _CURRENT)
        sync_folder(self.path)

    def remove_snapshots(self, keep: Collection[Path]) -> None:
        """Remove all snapshots except the current one and those to keep."""
        current, _ = self.snapshot()
        for folder in self.path.glob("snapshot-*"):
            if folder != current and folder not in keep:
                shutil.rmtree(folder)


def _snapshot_name(number: int) -> str:
    return f"snapshot-{number:06d}"
