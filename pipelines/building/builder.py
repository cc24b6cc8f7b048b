"""Runs a build of memories in steps, one for each bucket of the store.

A step writes its memories and the record of the step in the store's journal in one transaction: a killed build resumes
after its last finished step, and no event is folded twice.
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
    """Folds the events of files into one store, with one model."""

    def __init__(
        self,
        trained: TrainedModel,
        store: MemoryStore,
        source: ParquetSource,
        config: DataConfig,
        out: Path,
        notify: Callable[[str], None],
    ) -> None:
        self.trained, self.store, self.source, self.config = trained, store, source, config
        self.out, self.notify = out, notify

    def run(self, writer: StoreWriter, build: Build, *, rebuild_late: bool, batch_events: int) -> Build:
        """Run a build and return it with its counts; raises DataError if the log lacks a file.

        If a build is under way in the store's journal, that one is resumed, and `build` is ignored.
        """
        journal = self.store.journal()
        first = 0
        if journal.under_way is not None:
            build, first = journal.under_way.build, journal.under_way.step
        work = self.out / f"{_WORK}{build.id}"
        prepared = self.prepare(build.files, work / "new")
        whole = _WholeLog(self, journal, build, work / "whole")
        fold = MemoryFold(self.trained, self.store, batch_events, whole.get if rebuild_late else None)
        num_buckets = self.store.facts.num_buckets
        with Progress("building", num_buckets, "buckets of users") as progress:
            progress.advance(first)
            for bucket, folded in fold.buckets(prepared, first):
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
        """Remove the sorted logs that killed builds have left."""
        for work in self.out.glob(f"{_WORK}*"):
            shutil.rmtree(work, ignore_errors=True)

    def _set_aside(self, late: list[pa.Table], build: Build, bucket: int) -> None:
        if late:
            folder = self.out / "late" / build.id
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"bucket-{bucket:05d}.parquet") as partial:
                pq.write_table(pa.concat_tables(late), partial, compression="zstd")

    def prepare(self, files: tuple[SourceFile, ...], folder: Path) -> PreparedLog:
        """Sort some of the log's files by user, in one bucket or in buckets that match the store's."""
        hashes = self.source.file_hashes
        missing = [file.name for file in files if file.sha256 not in hashes]
        if missing:
            raise DataError(
                f"{self.source.path}: {missing[0]}, consumed earlier, is not here; it is needed because an event came "
                "late and its user's memory is rebuilt from the whole log. Name a log with all files, or use --late "
                "set-aside"
            )
        selected = {file.sha256 for file in files}
        return prepare(
            self.config,
            folder,
            notify=self.notify,
            for_training=False,
            timelines=False,
            events=self.source.only([index for index, sha256 in enumerate(hashes) if sha256 in selected]),
            buckets_multiple_of=self.store.facts.num_buckets,
        )


class _WholeLog:
    """All files that a store ever consumed, prepared when the first user has to be rebuilt."""

    def __init__(self, builder: MemoryBuilder, journal: Journal, build: Build, folder: Path) -> None:
        self._builder, self._build, self._folder = builder, build, folder
        self._earlier = tuple(file for earlier in journal.builds for file in earlier.files)

    def get(self) -> PreparedLog:
        return self._prepared

    @cached_property
    def _prepared(self) -> PreparedLog:
        self._builder.notify("an event came late: its user's memory is rebuilt from the whole log")
        return self._builder.prepare((*self._earlier, *self._build.files), self._folder)


def _with_counts(build: Build, folded: Folded) -> Build:
    counts = {name: getattr(build, name) + number for name, number in folded.counts.items()}
    first = [moment for moment in (build.first_time, folded.first_time) if moment is not None]
    last = [moment for moment in (build.last_time, folded.last_time) if moment is not None]
    times = {"first_time": min(first, default=None), "last_time": max(last, default=None)}
    return build.model_copy(update=counts | times)
