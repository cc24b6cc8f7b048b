"""The plan of builds: which files are new to a store, how they are read, and which build was interrupted."""

from feature_store.data_config import DataConfig, Impressions, LabelColumn, NextEvent
from feature_store.errors import DataError
from feature_store.files import sha256_of_json
from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores.store import Build, Journal, SourceFile
from pipelines.building.settings import ReadConfig
from pipelines.errors import SettingsError
from pipelines.models.artifact import ModelCard


def event_source(log: str) -> ParquetSource:
    """Open a log's files; of files with the same content only the first is kept."""
    source = ParquetSource.open(log)
    first = {content: index for index, content in reversed(list(enumerate(source.file_hashes)))}
    return source.only(sorted(first.values()))


def data_config(card: ModelCard, source: ParquetSource, read: ReadConfig) -> DataConfig:
    """Return the config that reads a log as in training: with labels, if it has them, so that the same rows are bad."""
    impressions: Impressions = NextEvent()
    trained_on = card.impressions
    if isinstance(trained_on, LabelColumn):
        columns = {trained_on.column, *trained_on.context_features, *trained_on.context_dense, *trained_on.carry}
        if all(columns <= schema.keys() for schema in source.schemas):
            impressions = trained_on
    return DataConfig(
        log=source.path,
        columns=card.columns,
        impressions=impressions,
        bad_rows=read.bad_rows,
        duplicate_rows=read.duplicate_rows,
        memory_limit_mb=read.memory_limit_mb,
        events_per_bucket=read.events_per_bucket,
    )


def plan_builds(journal: Journal, source: ParquetSource, row_rules: str) -> list[Build]:
    """List the builds to do: first the interrupted one, if any, then one of the files that are not consumed yet.

    Raises:
        DataError: the interrupted build needs a file that the log lacks.
        SettingsError: the interrupted build began with other settings.
    """
    files = [
        SourceFile(name=name, sha256=content, rows=rows)
        for name, content, rows in zip(source.names, source.file_hashes, source.file_rows, strict=True)
    ]
    consumed = {file.sha256 for build in journal.builds for file in build.files}
    builds = []
    if journal.under_way is not None:
        interrupted = journal.under_way.build
        missing = [file for file in interrupted.files if file.sha256 not in source.file_hashes]
        if missing:
            raise DataError(
                f"{source.path}: build {interrupted.id}, which was interrupted, needs {missing[0].name} (sha256 "
                f"{missing[0].sha256[:12]}), which is not here; name the log that this build began with"
            )
        if interrupted.id != build_id(interrupted.files, row_rules):
            raise SettingsError(
                f"{source.path}: build {interrupted.id}, which was interrupted, began with other settings of "
                "read.bad_rows or read.duplicate_rows; give the same ones until it is finished"
            )
        builds.append(interrupted)
        consumed |= {file.sha256 for file in interrupted.files}
    new = tuple(file for file in files if file.sha256 not in consumed)
    if new:
        builds.append(Build(id=build_id(new, row_rules), files=new))
    return builds


def build_id(files: tuple[SourceFile, ...], row_rules: str) -> str:
    """Return the hash of a build's files and of the settings that its result depends on."""
    return sha256_of_json([row_rules, sorted(file.sha256 for file in files)])[:16]


def how_read(space: str, read: ReadConfig) -> str:
    """Return the settings that a build's result depends on beside its files: memory space, and which rows are left out.

    The policy for late events is not one of them: a build that lacks the files to rebuild users may resume without.
    """
    return f"space={space} bad_rows={read.bad_rows} duplicate_rows={read.duplicate_rows}"
