"""The writer of snapshots: a build gathers whole buckets beside the snapshot that readers see, then swaps."""

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
    """Writes the one build under way, and takes deleted users out of every file."""

    def __init__(self, store: MemoryStore, layout: Layout) -> None:
        super().__init__(store)
        self._layout, self._schema, self._address = layout, store.facts.memory, store.address
        with folders.refusals_told(self._address):
            self._clear_up()

    def _clear_up(self) -> None:
        """Take away what a killed writer has left, and end the deletions that it had begun."""
        _, snapshot = self._layout.snapshot()
        self._layout.clear_building(self._layout.building(snapshot.generation))
        for file in self._layout.path.glob(".without-*"):
            file.unlink()
        if self._layout.deleted().buckets:
            self._take_out()

    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        with folders.refusals_told(self._address):
            _, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            building = building or Building(generation=snapshot.generation, journal=journal)
            if len(memories):
                kept = self._read(building, bucket)
                others = pc.invert(pc.is_in(kept.users, value_set=memories.users)).to_numpy(zero_copy_only=False)
                building = self._put(building, bucket, Memories.concat([kept.select(others), memories]))
            self._layout.commit(building.model_copy(update={"journal": journal}))

    def _read(self, building: Building | None, bucket: int, wanted: pa.Array | None = None) -> Memories:
        """Read a bucket as the build under way has it so far; without a build, as the snapshot has it."""
        folder, snapshot = self._layout.snapshot()
        file: Path | None = None
        if building is not None and bucket in building.files:
            file = self._layout.building_folder / building.files[bucket]
        elif bucket in snapshot.rows:
            file = self._layout.bucket_file(folder, bucket)
        parts = [Memories.none(self._schema)]
        if file is not None:
            parts += read_bucket(file, self._schema, self._address, wanted)
        return Memories.concat(parts)

    def _put(self, building: Building, bucket: int, memories: Memories) -> Building:
        """Write a bucket's next file beside its last, which is removed once this one is committed."""
        self._layout.building_folder.mkdir(exist_ok=True)
        writes = building.writes + 1
        name = f"{bucket:03d}-{writes:06d}.parquet"
        write_bucket(self._layout.building_folder / name, self._schema, memories)
        return building.model_copy(update={"writes": writes, "files": {**building.files, bucket: name}})

    def _finish(self, journal: Journal) -> None:
        with folders.refusals_told(self._address):
            before, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            files = {} if building is None else building.files
            made = {bucket: self._layout.building_folder / name for bucket, name in files.items()}
            after = Snapshot(generation=snapshot.generation + 1, journal=journal, rows=snapshot.rows)
            self._layout.swap(after, made)
            self._layout.clear_building(None)
            self._layout.remove_snapshots(keep=[before])  # for those who are reading it

    def _delete(self, user: pa.Array) -> bool:
        bucket = int(bucket_of(user, self.store.facts.num_buckets)[0])
        with folders.refusals_told(self._address):
            _, snapshot = self._layout.snapshot()
            building = self._layout.building(snapshot.generation)
            was = bool(len(self._read(None, bucket, user)) or len(self._read(building, bucket, user)))
            self._keep(tombstones_of(user), [bucket])
            self._take_out()
        return was

    def _bury(self, tombstones: Collection[bytes]) -> None:
        with folders.refusals_told(self._address):
            self._keep(tombstones, [])

    def _keep(self, tombstones: Collection[bytes], buckets: Collection[int]) -> None:
        deleted = self._layout.deleted()
        hashes = sorted({*deleted.tombstones, *(tombstone.hex() for tombstone in tombstones)})
        unfinished = sorted({*deleted.buckets, *buckets})
        self._layout.write_deleted(Deleted(tombstones=tuple(hashes), buckets=tuple(unfinished)))

    def _take_out(self) -> None:
        """Write the buckets of deleted users without them, and remove every older file; killed, it is begun again."""
        deleted = self._layout.deleted()
        _, snapshot = self._layout.snapshot()
        building = self._layout.building(snapshot.generation)
        made = {}
        for bucket in deleted.buckets:
            if building is not None and bucket in building.files:
                memories = self._read(building, bucket)
                building = self._put(building, bucket, memories.select(~deleted.has(memories.users)))
            if bucket in snapshot.rows:
                memories = self._read(None, bucket)
                made[bucket] = self._layout.path / f".without-{bucket:03d}.parquet"
                write_bucket(made[bucket], self._schema, memories.select(~deleted.has(memories.users)))
        if building is not None:
            self._layout.commit(building)
        self._layout.swap(snapshot, made)
        self._layout.remove_snapshots(keep=[])
        for file in made.values():
            file.unlink()
        self._layout.write_deleted(Deleted(tombstones=deleted.tombstones))
