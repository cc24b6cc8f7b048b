"""Reads Parquet logs larger than memory: checks them, buckets users by hash, sorts each user's events by time."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from feature_store.data_config import DataConfig, ImpressionFile, NextEvent, SplitByTime
from feature_store.errors import DataError
from feature_store.files import sync_folder, sync_tree, write_text
from feature_store.logs.bucketing import DUPLICATE, Bucketing, open_duckdb, time_at_rank, write_rejects
from feature_store.logs.parquet_source import ParquetSource
from feature_store.logs.prepared_log import MANIFEST, TABLES, Manifest, PreparedLog, TimeMoments
from feature_store.logs.row_checks import ReadColumn, event_columns, impression_columns
from feature_store.logs.splits import NEVER, check_splits, rank_of
from feature_store.logs.timelines import write_timeline

REJECTS, WORK = "rejects.parquet", ".preparing"
# What a log's content is made into: its fingerprint outlives the format that this is kept in (`prepared_log`).
_CONTENT_VERSION = 1


def prepare(
    config: DataConfig,
    out: Path | str,
    *,
    report: Callable[[str], None] = print,
    for_training: bool = True,
    events: ParquetSource | None = None,
    buckets_multiple_of: int = 1,
) -> PreparedLog:
    """Check a log and write it to `out` in buckets of whole users, sorted; work already done is reused.

    Every row that is left out is counted, reported and written to `out/rejects.parquet` with its reason. The prepared
    log appears whole or not at all: one killed midway is made anew. `for_training=False` skips the checks that there
    is something to train and test on, for logs that only feed memories. `events` are the log's files, where not all of
    them are meant. With a number of buckets that is a multiple of n, a bucket's users lie in its own number modulo n.

    Raises:
        DataError: in one line, with file, column, row and mend.
    """
    out = Path(out)
    events = ParquetSource.open(config.log) if events is None else events
    shown = ParquetSource.open(config.impressions.path) if isinstance(config.impressions, ImpressionFile) else None
    tables = {"events": (events, event_columns(events, config))}
    if shown is not None and isinstance(config.impressions, ImpressionFile):
        tables["impressions"] = (shown, impression_columns(shown, config.impressions, events, config))
    num_buckets = buckets_multiple_of * -(-events.num_rows // (config.events_per_bucket * buckets_multiple_of))
    fingerprint = _fingerprint(config, [source for source, _ in tables.values()], buckets_multiple_of)
    if (out / MANIFEST).is_file():
        try:
            prepared = PreparedLog.open(out)
        except DataError as error:
            report(str(error))
        else:
            if prepared.manifest.fingerprint == fingerprint:
                report(f"{out}: already prepared from {config.log} with this config; nothing to do")
                _check(prepared, report, for_training)
                return prepared
            report(f"{out}: the log or the data config has changed; preparing again")
    work = out / WORK
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        manifest = _write_buckets(config, tables, num_buckets, fingerprint, work, report)
        # Until the manifest is in place, the last thing to be renamed, `out` holds no prepared log.
        (out / MANIFEST).unlink(missing_ok=True)
        for name in TABLES:
            shutil.rmtree(out / name, ignore_errors=True)
            if name in tables:
                (work / name).rename(out / name)
        (work / REJECTS).replace(out / REJECTS)
        prepared = PreparedLog(out, _write_timelines(PreparedLog(out, manifest)))
        _check(prepared, report, for_training)
        for name in tables:
            sync_tree(out / name)
        write_text(work / MANIFEST, prepared.manifest.model_dump_json(indent=2))
        (work / MANIFEST).replace(out / MANIFEST)
        sync_folder(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    done = prepared.manifest
    report(f"{out}: {done.events:,} events of {done.users:,} users in {done.num_buckets} buckets")
    return prepared


def log_fingerprint(config: DataConfig) -> str:
    """Name a log's content and what is made of it, as its prepared log's manifest does; where it lies does not count.

    Raises:
        DataError: there is no such log.
    """
    sources = [ParquetSource.open(config.log)]
    if isinstance(config.impressions, ImpressionFile):
        sources.append(ParquetSource.open(config.impressions.path))
    return _fingerprint(config, sources, buckets_multiple_of=1)


def _fingerprint(config: DataConfig, sources: list[ParquetSource], buckets_multiple_of: int) -> str:
    digest = hashlib.sha256(f"{_CONTENT_VERSION}\0".encode())
    # Where the log lies and what memory may be used do not change what is made.
    what = config.model_dump_json(exclude={"log": True, "memory_limit_mb": True, "impressions": {"path"}})
    digest.update(what.encode())
    if buckets_multiple_of > 1:
        digest.update(f"\0{buckets_multiple_of}\0".encode())
    for source in sources:
        digest.update(source.content_hash().encode())
    return digest.hexdigest()


def _write_buckets(
    config: DataConfig,
    tables: dict[str, tuple[ParquetSource, list[ReadColumn]]],
    num_buckets: int,
    fingerprint: str,
    work: Path,
    report: Callable[[str], None],
) -> Manifest:
    rejects: dict[str, int] = {}
    kept = {}
    with open_duckdb(config, work / "spill") as connection:
        for name, (source, columns) in tables.items():
            report(f"{source.path}: {source.num_rows:,} {name} in {len(source.files)} files")
            bucketing = Bucketing(connection, source, columns, config, work, name)
            bad = bucketing.set_bad_rows_aside()
            if sum(bad.values()) < source.num_rows:
                bucketing.partition(num_buckets)
                rows, repeats = np.sum([bucketing.sort(bucket) for bucket in range(num_buckets)], axis=0).tolist()
            else:
                reasons = ", ".join(f"{reason} ({count:,})" for reason, count in bad.items())
                raise DataError(f"{source.path}: no row is left after the bad ones are set aside: {reasons}; mend them")
            for reason, count in (bad | ({DUPLICATE: repeats} if repeats else {})).items():
                report(f"{source.path}: {count:,} rows set aside in {REJECTS}: {reason}")
                rejects[f"{name}: {reason}"] = count
            kept[name] = rows
        write_rejects(connection, work)
        asked = "impressions" if "impressions" in tables else "events"
        moments = None
        if isinstance(config.split, SplitByTime):
            files = sorted((work / asked).iterdir())
            validation = config.split.validation_from
            test = config.split.test_from
            if test is None:
                rank = rank_of(config.split.test, kept[asked])
                test = time_at_rank(connection, files, rank) if rank < kept[asked] else NEVER
            if validation is None:
                rank = rank_of(config.split.validation + config.split.test, kept[asked])
                validation = time_at_rank(connection, files, rank) if rank < kept[asked] else NEVER
            if validation > test:
                raise DataError(
                    f"{config.log}: validation would begin at {validation}, after test at {test}; "
                    "set both split.validation_from and split.test_from, the first before the second"
                )
            moments = TimeMoments(validation_from=validation, test_from=test)
    return Manifest(
        fingerprint=fingerprint,
        config=config,
        sources=tuple(tables["events"][0].names),
        impression_sources=tuple(tables["impressions"][0].names) if "impressions" in tables else (),
        events=kept["events"],
        impressions=kept[asked],
        users=0,
        rejects=rejects,
        num_buckets=num_buckets,
        moments=moments,
        split_counts=(),
    )


def _write_timelines(prepared: PreparedLog) -> Manifest:
    """Find each bucket's timeline, for all later steps, and count users and splits while it is there."""
    counts = np.zeros((3, 2), np.int64)
    users = 0
    for bucket in prepared.buckets():
        timeline = write_timeline(prepared, bucket)
        users += len(timeline.users)
        label = np.ones(len(timeline.num_earlier)) if timeline.label is None else timeline.label
        counts += np.bincount(timeline.impression_split * 2 + (label > 0), minlength=6).reshape(3, 2)
    split_counts = tuple((int(zeros), int(ones)) for zeros, ones in counts)
    return prepared.manifest.model_copy(update={"users": users, "split_counts": split_counts})


def _check(prepared: PreparedLog, report: Callable[[str], None], for_training: bool) -> None:
    if not for_training:
        return
    config = prepared.manifest.config
    where = config.impressions.path if isinstance(config.impressions, ImpressionFile) else config.log
    counts = np.array(prepared.manifest.split_counts, np.int64)
    for warning in check_splits(counts, where, labelled=not isinstance(config.impressions, NextEvent)):
        report(warning)
