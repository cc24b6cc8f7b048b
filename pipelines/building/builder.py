"""Runs a build of memories: one step a bucket of the store, each in one transaction with the record of it.

Before a step nothing of it is written, after it all is, and the store's journal says so in the same transaction: a
build that was killed goes on, and no event is folded twice.
"""

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_config import DataConfig
from feature_store.errors import DataError
from feature_store.files import replacing
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.preparation import REJECTS, prepare
from feature_store.logs.prepared_log import PreparedLog
from feature_store.stores.record import Memories
from feature_store.stores.store import Build, Journal, MemoryStore, SourceFile, StoreWriter, UnderWay
from pipelines.building.fold import Folded, MemoryFold
from pipelines.cli.job import Progress
from pipelines.models.artifact import TrainedModel

_WORK = "building-"


class MemoryBuilder:
    """One build: the events of some files, into one store, with one model."""

    def __init__(
        self,
        trained: TrainedModel,
        store: MemoryStore,
        source: ParquetSource,
        config: DataConfig,
        out: Path,
        report: Callable[[str], None],
    ) -> None:
        self.trained, self.store, self.source, self.config = trained, store, source, config
        self.out, self.report = out, report

    def run(self, writer: StoreWriter, build: Build, *, rebuild_late: bool, batch_events: int) -> Build:
        """Do what is left of a build, and return it with its counts; DataError where the log lacks a file it needs."""
        journal = self.store.journal()
        done = 0
        if journal.under_way is not None:
            build, done = journal.under_way.build, journal.under_way.step
        work = self.out / f"{_WORK}{build.id}"
        prepared = self.prepare(build.files, work / "new")
        whole = _WholeLog(self, journal, build, work / "whole")
        fold = MemoryFold(self.trained, self.store, batch_events, whole.get if rebuild_late else None)
        num_buckets = self.store.facts.num_buckets
        with Progress("building", num_buckets, "buckets of users") as progress:
            progress.advance(done)
            for bucket in range(done, num_buckets):
                folded = fold.bucket(prepared, bucket)
                build = _with_counts(build, folded)
                self._set_aside(folded.late, build, bucket)
                if folded.memories:
                    under_way = UnderWay(build=build, step=bucket + 1)
                    memories = Memories.concat(folded.memories)
                    writer.write(bucket, memories, Journal(builds=journal.builds, under_way=under_way))
                progress.advance(note=f"{build.events:,} events")
        if prepared.manifest.rejects:
            rejects = self.out / "rejects" / f"{build.id}.parquet"
            rejects.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(prepared.path / REJECTS, rejects)
        writer.finish(Journal(builds=(*journal.builds, build)))
        shutil.rmtree(work, ignore_errors=True)
        return build

    def clear_up(self) -> None:
        """Remove the sorted logs of builds that were killed as they ended, or as they began and are now others."""
        for work in self.out.glob(f"{_WORK}*"):
            shutil.rmtree(work, ignore_errors=True)

    def _set_aside(self, late: list[pa.Table], build: Build, bucket: int) -> None:
        if late:
            folder = self.out / "late" / build.id
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"bucket-{bucket:05d}.parquet") as partial:
                pq.write_table(pa.concat_tables(late), partial, compression="zstd")

    def prepare(self, files: tuple[SourceFile, ...], folder: Path) -> PreparedLog:
        """Sort some of the log's files by user, in buckets that agree with the store's."""
        hashes = self.source.file_hashes
        absent = [file.name for file in files if file.sha256 not in hashes]
        if absent:
            raise DataError(
                f"{self.source.path}: {absent[0]}, consumed earlier, is not here, and an event came late: its user's "
                "memory is built anew from the whole log. Name a log with all files, or take --late set-aside"
            )
        wanted = {file.sha256 for file in files}
        return prepare(
            self.config,
            folder,
            notify=self.report,
            for_training=False,
            events=self.source.only([place for place, found in enumerate(hashes) if found in wanted]),
            buckets_multiple_of=self.store.facts.num_buckets,
        )


class _WholeLog:
    """All that a store ever consumed, prepared once, when the first user has to be built anew."""

    def __init__(self, builder: MemoryBuilder, journal: Journal, build: Build, folder: Path) -> None:
        self._builder, self._build, self._folder = builder, build, folder
        self._earlier = tuple(file for earlier in journal.builds for file in earlier.files)

    def get(self) -> PreparedLog:
        return self._prepared

    @cached_property
    def _prepared(self) -> PreparedLog:
        self._builder.report("an event came late: its user's memory is built anew from the whole log")
        return self._builder.prepare((*self._earlier, *self._build.files), self._folder)


def _with_counts(build: Build, folded: Folded) -> Build:
    counts = {name: getattr(build, name) + number for name, number in folded.counts.items()}
    first = [moment for moment in (build.first_time, folded.first_time) if moment is not None]
    last = [moment for moment in (build.last_time, folded.last_time) if moment is not None]
    times = {"first_time": min(first, default=None), "last_time": max(last, default=None)}
    return build.model_copy(update=counts | times)
