"""What a build of memories is: which files are new to a store, how they are read, and what was broken off."""

from typing import Literal

from pydantic import Field

from feature_store.data_config import DataConfig, Impressions, LabelColumn, NextEvent
from feature_store.errors import DataError
from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores.store import Build, Journal, SourceFile
from pipelines.errors import SettingsError
from pipelines.models.artifact import ModelCard
from pipelines.runs.json_hash import sha256_of_json
from rm_rec.config.base import Settings

LatePolicy = Literal["set-aside", "rebuild-user"]


class ReadConfig(Settings):
    """How the log is read."""

    bad_rows: Literal["error", "set_aside"] = "set_aside"
    """Rows with a null id or a bad time: stop at the first, or write them to OUT/rejects with the reason."""
    duplicate_rows: Literal["set_aside", "keep", "error"] = "set_aside"
    """Rows of one build that are equal in every column that is read; as in training."""
    memory_limit_mb: int = Field(1000, ge=200)
    """What sorting the log may hold in memory; the rest spills to disk."""
    events_per_bucket: int = Field(500_000, ge=1)
    """About this many events are in memory at a time."""
    batch_events: int = Field(65_536, ge=1)
    """About this many events, padding included, are folded at a time."""


def event_source(log: str) -> ParquetSource:
    """Open a log's files; of two with the same content the second is left out."""
    source = ParquetSource.open(log)
    first = {content: place for place, content in reversed(list(enumerate(source.file_hashes)))}
    return source.only(sorted(first.values()))


def data_config(card: ModelCard, source: ParquetSource, read: ReadConfig) -> DataConfig:
    """Read a log as the model's was read: with its labels too, where it has them, so that the same rows are bad."""
    impressions: Impressions = NextEvent()
    asked = card.impressions
    if isinstance(asked, LabelColumn):
        needed = {asked.column, *asked.context_features, *asked.context_dense, *asked.carry}
        if all(needed <= schema.keys() for schema in source.schemas):
            impressions = asked
    return DataConfig(
        log=source.path,
        columns=card.columns,
        impressions=impressions,
        bad_rows=read.bad_rows,
        duplicate_rows=read.duplicate_rows,
        memory_limit_mb=read.memory_limit_mb,
        events_per_bucket=read.events_per_bucket,
    )


def plan_builds(journal: Journal, source: ParquetSource, how: str) -> list[Build]:
    """List the builds to do: first the one under way, if there is one, then one of the files not consumed yet.

    Raises DataError where the build under way needs a file that the log lacks, or was begun in another way.
    """
    files = [
        SourceFile(name=name, sha256=content, rows=rows)
        for name, content, rows in zip(source.names, source.file_hashes, source.file_rows, strict=True)
    ]
    consumed = {file.sha256 for build in journal.builds for file in build.files}
    builds = []
    if journal.under_way is not None:
        begun = journal.under_way.build
        missing = [file for file in begun.files if file.sha256 not in source.file_hashes]
        if missing:
            raise DataError(
                f"{source.path}: build {begun.id}, which was interrupted, needs {missing[0].name} (sha256 "
                f"{missing[0].sha256[:12]}), which is not here; name the log that build began with"
            )
        if begun.id != build_id(begun.files, how):
            raise SettingsError(
                f"{source.path}: build {begun.id}, which was interrupted, began with other settings of "
                "read.bad_rows or read.duplicate_rows; give the same ones to let it end, then others"
            )
        builds.append(begun)
        consumed |= {file.sha256 for file in begun.files}
    new = tuple(file for file in files if file.sha256 not in consumed)
    if new:
        builds.append(Build(id=build_id(new, how), files=new))
    return builds


def build_id(files: tuple[SourceFile, ...], how: str) -> str:
    """Name a build by its files' contents and the settings that decide what it makes of them."""
    return sha256_of_json([how, sorted(file.sha256 for file in files)])[:16]


def how_read(space: str, read: ReadConfig) -> str:
    """Write down what decides, beside its files, what a build folds: the memory space and which rows are left out.

    What becomes of late events is not among them: a build that lacks the files to build users anew may go on without.
    """
    return f"space={space} bad_rows={read.bad_rows} duplicate_rows={read.duplicate_rows}"
