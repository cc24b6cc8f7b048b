"""The writer of snapshots: a build writes whole buckets next to the current snapshot, then replaces that."""

from collections.abc import Collection
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.stores import folders
from feature_store.stores.parquet_files import read_bucket, write_bucket
from feature_store.stores.parquet_layout import Building, Deleted, Layout, Snapshot
from feature_store.stores.record import Memories
from feature_store.stores.store import Journal, MemoryStore, StoreWriter
from feature_store.stores.users import bucket_of, tombstones_of


@final
class ParquetWriter(StoreWriter):
    """Writes the build under way, and removes deleted users from every file."""

    def __init__(self, store: MemoryStore, layout: Layout) -> None:
        super().__init__(store)
        self._layout, self._schema, self._address = layout, store.facts.memory, store.address
        with folders.system_errors_as_data_errors(self._address):
            self._clear_up()

    def _clear_up(self) -> None:
        """Remove files left by a writer that was killed, and finish its deletions."""
        _, snapshot = self._layout.snapshot()
        self._layout.clear_building(self._layout.building(snapshot.generation))
        for file in self._layout.path.glob(".without-*"):
            file.unlink()
        if self._layout.deleted().buckets:
            self._rewrite_buckets_of_deleted()

    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        with folders.system_errors_as_data_errors(self._address):
            _, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            building = building or Building(generation=snapshot.generation, journal=journal)
            if len(memories):
                existing = self._read(building, bucket)
                others = pc.invert(pc.is_in(existing.users, value_set=memories.users)).to_numpy(zero_copy_only=False)
                building = self._put(building, bucket, Memories.concat([existing.select(others), memories]))
            self._layout.commit(building.model_copy(update={"journal": journal}))

    def _read(self, building: Building | None, bucket: int, selected: pa.Array | None = None) -> Memories:
        """Read a bucket, or the selected users in it, from the build, else from the current snapshot."""
        folder, snapshot = self._layout.snapshot()
        file: Path | None = None
        if building is not None and bucket in building.files:
            file = self._layout.building_folder / building.files[bucket]
        elif bucket in snapshot.rows:
            file = self._layout.bucket_file(folder, bucket)
        parts = [Memories.none(self._schema)]
        if file is not None:
            parts += read_bucket(file, self._schema, self._address, selected)
        return Memories.concat(parts)

    def _put(self, building: Building, bucket: int, memories: Memories) -> Building:
        """Write a new file of a bucket; the one before is removed when this one is committed."""
        self._layout.building_folder.mkdir(exist_ok=True)
        writes = building.writes + 1
        name = f"{bucket:03d}-{writes:06d}.parquet"
        write_bucket(self._layout.building_folder / name, self._schema, memories)
        return building.model_copy(update={"writes": writes, "files": {**building.files, bucket: name}})

    def _finish(self, journal: Journal) -> None:
        with folders.system_errors_as_data_errors(self._address):
            previous, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            files = {} if building is None else building.files
            new_files = {bucket: self._layout.building_folder / name for bucket, name in files.items()}
            finished = Snapshot(generation=snapshot.generation + 1, journal=journal, rows=snapshot.rows)
            self._layout.swap(finished, new_files)
            self._layout.clear_building(None)
            self._layout.remove_snapshots(keep=[previous])  # processes may still be reading it

    def _delete(self, user: pa.Array) -> bool:
        bucket = int(bucket_of(user, self.store.facts.num_buckets)[0])
        with folders.system_errors_as_data_errors(self._address):
            _, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            existed = bool(len(self._read(None, bucket, user)) or len(self._read(building, bucket, user)))
            self._commit_deletion(tombstones_of(user), [bucket])
            self._rewrite_buckets_of_deleted()
        return existed

    def _add_tombstones(self, tombstones: Collection[bytes]) -> None:
        with folders.system_errors_as_data_errors(self._address):
            self._commit_deletion(tombstones, [])

    def _commit_deletion(self, tombstones: Collection[bytes], buckets: Collection[int]) -> None:
        deleted = self._layout.deleted()
        hashes = sorted({*deleted.tombstones, *(tombstone.hex() for tombstone in tombstones)})
        unfinished = sorted({*deleted.buckets, *buckets})
        self._layout.write_deleted(Deleted(tombstones=tuple(hashes), buckets=tuple(unfinished)))

    def _rewrite_buckets_of_deleted(self) -> None:
        """Rewrite buckets without their deleted users, remove older files; after a crash the next writer does it."""
        deleted = self._layout.deleted()
        _, snapshot = self._layout.snapshot()
        building = self._layout.building(snapshot.generation)
        new_files = {}
        for bucket in deleted.buckets:
            if building is not None and bucket in building.files:
                memories = self._read(building, bucket)
                building = self._put(building, bucket, memories.select(~deleted.has(memories.users)))
            if bucket in snapshot.rows:
                memories = self._read(None, bucket)
                new_files[bucket] = self._layout.path / f".without-{bucket:03d}.parquet"
                write_bucket(new_files[bucket], self._schema, memories.select(~deleted.has(memories.users)))
        if building is not None:
            self._layout.commit(building)
        self._layout.swap(snapshot, new_files)
        self._layout.remove_snapshots(keep=[])
        for file in new_files.values():
            file.unlink()
        self._layout.write_deleted(Deleted(tombstones=deleted.tombstones))
