"""Where a store of snapshots keeps what, and which of its files count.

    PATH/_store.json                             the facts
    PATH/_deleted.json                           tombstones, and the buckets they are still to be taken out of
    PATH/current -> snapshot-000003              swapped by one rename
    PATH/snapshot-000003/_snapshot.json          the journal, and how many users each bucket has
    PATH/snapshot-000003/bucket=007/memories.parquet
    PATH/.building/_building.json                the build under way: its journal and which files are committed
    PATH/.building/007-000001.parquet

Whatever is not named by one of the JSON files does not count, so that their renames are the commits.
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
    """Who was deleted."""

    tombstones: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    """Where records of deleted users may still lie; readers leave them out."""

    def has(self, users: pa.Array) -> NDArray[np.bool_]:
        """Say which users [users] were deleted."""
        kept = set(self.tombstones)
        if not kept:
            return np.zeros(len(users), bool)
        return np.fromiter((hashed.hex() in kept for hashed in tombstones_of(users)), bool, len(users))


class Snapshot(Settings):
    """What a snapshot holds."""

    generation: int = 0
    """How many builds were finished; a deletion makes a snapshot of the same generation."""
    journal: Journal = Journal()
    rows: dict[int, int] = Field(default_factory=dict)
    """Bucket -> users; a bucket without users has no file."""


class Building(Settings):
    """What is committed of the build that goes on from a generation of snapshots."""

    generation: int
    journal: Journal
    files: dict[int, str] = Field(default_factory=dict)
    """Bucket -> its file, which stands for the whole bucket."""
    writes: int = 0
    """How many files were written: the number of the next one is free."""


@final
class Layout:
    """Reads which files of a store count, and changes that by renames."""

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        self.building_folder = path / _BUILDING

    @staticmethod
    def fill(folder: Path, facts: StoreFacts) -> None:
        """Write a store without users."""
        write_text(folder / FACTS, facts.model_dump_json(indent=2))
        write_text(folder / _DELETED, Deleted().model_dump_json())
        first = folder / _snapshot_name(0)
        first.mkdir()
        write_text(first / _SNAPSHOT, Snapshot().model_dump_json())
        (folder / _CURRENT).symlink_to(first.name)

    def snapshot(self) -> tuple[Path, Snapshot]:
        """Find the current snapshot: its folder, and what it holds."""
        folder = self.path / _CURRENT
        for _ in range(_RETRIES):
            with folders.refusals_told(self.address):
                folder = self.path / os.readlink(self.path / _CURRENT)
                try:
                    return folder, parse(Snapshot, (folder / _SNAPSHOT).read_bytes(), f"{self.address}: {_SNAPSHOT}")
                except FileNotFoundError:
                    continue  # a writer has just put another in its place
        raise DataError(f"{self.address}: damaged (no {folder.name}/{_SNAPSHOT}); build the memories anew")

    def building(self, generation: int) -> Building | None:
        """Read the build under way, if it goes on from this generation: a finished one may not be cleared away yet."""
        with folders.refusals_told(self.address):
            try:
                text = (self.building_folder / _COMMITTED).read_bytes()
            except FileNotFoundError:
                return None
        found = parse(Building, text, f"{self.address}: {_COMMITTED}")
        return found if found.generation == generation else None

    def deleted(self) -> Deleted:
        """Read who was deleted."""
        with folders.refusals_told(self.address):
            return parse(Deleted, (self.path / _DELETED).read_bytes(), f"{self.address}: {_DELETED}")

    def bucket_file(self, folder: Path, bucket: int) -> Path:
        """Name a bucket's file in a snapshot."""
        return folder / f"bucket={bucket:03d}" / _FILE

    def write_deleted(self, deleted: Deleted) -> None:
        """Commit who was deleted."""
        write_text(self.path / _DELETED, deleted.model_dump_json())

    def commit(self, building: Building) -> None:
        """Commit a step of the build under way; files that it no longer names are removed."""
        self.building_folder.mkdir(exist_ok=True)
        write_text(self.building_folder / _COMMITTED, building.model_dump_json())
        sync_folder(self.path)
        self.clear_building(building)

    def clear_building(self, building: Building | None) -> None:
        """Remove what is not committed of the build under way."""
        if building is None:
            shutil.rmtree(self.building_folder, ignore_errors=True)
            return
        for file in self.building_folder.iterdir():
            if file.name not in {_COMMITTED, *building.files.values()}:
                file.unlink()

    def swap(self, snapshot: Snapshot, made: dict[int, Path]) -> None:
        """Make a snapshot of new files and of hard links to what has not changed, then make it the current one."""
        before, _ = self.snapshot()
        folder = self.path / _snapshot_name(int(before.name.rpartition("-")[2]) + 1)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rows = snapshot.rows | {bucket: num_rows(file) for bucket, file in made.items()}
        rows = {bucket: users for bucket, users in rows.items() if users}
        for bucket in rows:
            target = self.bucket_file(folder, bucket)
            target.parent.mkdir()
            os.link(made.get(bucket, self.bucket_file(before, bucket)), target)
            sync_folder(target.parent)
        write_text(folder / _SNAPSHOT, snapshot.model_copy(update={"rows": rows}).model_dump_json())
        link = self.path / f".{_CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(self.path / _CURRENT)
        sync_folder(self.path)

    def remove_snapshots(self, keep: Collection[Path]) -> None:
        """Remove all snapshots but the current one and those to keep."""
        current, _ = self.snapshot()
        for folder in self.path.glob("snapshot-*"):
            if folder != current and folder not in keep:
                shutil.rmtree(folder)


def _snapshot_name(number: int) -> str:
    return f"snapshot-{number:06d}"
