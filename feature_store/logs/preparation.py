"""Preparation of Parquet logs larger than memory: check rows, hash users into buckets, sort events by time."""

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
# Version of how content is computed. Fingerprints depend on it, and not on the file format (`prepared_log`).
_CONTENT_VERSION = 1


def prepare(
    config: DataConfig,
    out: Path | str,
    *,
    notify: Callable[[str], None] = print,
    for_training: bool = True,
    timelines: bool = True,
    events: ParquetSource | None = None,
    buckets_multiple_of: int = 1,
) -> PreparedLog:
    """Check a log and write it to `out`, sorted, in buckets of whole users; an up-to-date prepared log is reused.

    Rows that are left out are counted, passed to `notify`, and written to `out/rejects.parquet` with the reason. The
    prepared log is complete or not there: after a crash it is prepared again.

    Args:
        config: describes the log.
        out: the folder of the prepared log.
        notify: called with each line about the progress.
        for_training: check that there are impressions to train and test on.
        timelines: write splits and numbers of earlier events; False for logs that only memories read.
        events: the files to read, where they are not all files of `config.log`.
        buckets_multiple_of: makes the number of buckets a multiple of n, unless all events fit in one bucket; users of
            bucket b are then in bucket b modulo n of a store with n buckets.

    Raises:
        DataError: the log cannot be used; the message names file, column and row, and the way to fix it.
    """
    out = Path(out)
    events = ParquetSource.open(config.log) if events is None else events
    tables = {"events": (events, event_columns(events, config))}
    if isinstance(config.impressions, ImpressionFile):
        shown = ParquetSource.open(config.impressions.path)
        tables["impressions"] = (shown, impression_columns(shown, config.impressions, events, config))
    num_buckets = 1
    if events.num_rows > config.events_per_bucket:
        num_buckets = buckets_multiple_of * -(-events.num_rows // (config.events_per_bucket * buckets_multiple_of))
    fingerprint = _fingerprint(config, [source for source, _ in tables.values()], buckets_multiple_of, timelines)
    if (out / MANIFEST).is_file():
        try:
            prepared = PreparedLog.open(out)
        except DataError as error:
            notify(str(error))
        else:
            if prepared.manifest.fingerprint == fingerprint:
                notify(f"{out}: already prepared from {config.log} with this config; nothing to do")
                _check(prepared, notify, for_training)
                return prepared
            notify(f"{out}: the log or the data config has changed; preparing again")
    work = out / WORK
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        manifest = _write_buckets(config, tables, num_buckets, fingerprint, work, notify)
        # The manifest is written last: without it, `out` is no prepared log.
        (out / MANIFEST).unlink(missing_ok=True)
        for name in TABLES:
            shutil.rmtree(out / name, ignore_errors=True)
            if name in tables:
                (work / name).rename(out / name)
        (work / REJECTS).replace(out / REJECTS)
        prepared = PreparedLog(out, manifest)
        if timelines:
            prepared = PreparedLog(out, _write_timelines(prepared))
        _check(prepared, notify, for_training)
        for name in tables:
            sync_tree(out / name)
        write_text(work / MANIFEST, prepared.manifest.model_dump_json(indent=2))
        (work / MANIFEST).replace(out / MANIFEST)
        sync_folder(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    manifest = prepared.manifest
    notify(f"{out}: {manifest.events:,} events of {manifest.users:,} users in {manifest.num_buckets} buckets")
    return prepared


def log_fingerprint(config: DataConfig) -> str:
    """Return the fingerprint that a prepared log's manifest has: a hash of the log's content and of the config.

    Raises:
        DataError: there is no such log.
    """
    sources = [ParquetSource.open(config.log)]
    if isinstance(config.impressions, ImpressionFile):
        sources.append(ParquetSource.open(config.impressions.path))
    return _fingerprint(config, sources)


def _fingerprint(
    config: DataConfig, sources: list[ParquetSource], buckets_multiple_of: int = 1, timelines: bool = True
) -> str:
    digest = hashlib.sha256(f"{_CONTENT_VERSION}\0".encode())
    # The path of the log and the memory limit do not change the result.
    settings = config.model_dump_json(exclude={"log": True, "memory_limit_mb": True, "impressions": {"path"}})
    digest.update(settings.encode())
    if buckets_multiple_of > 1:
        digest.update(f"\0{buckets_multiple_of}\0".encode())
    if not timelines:
        digest.update(b"\0without timelines\0")
    for source in sources:
        digest.update(source.content_hash().encode())
    return digest.hexdigest()


def _write_buckets(
    config: DataConfig,
    tables: dict[str, tuple[ParquetSource, list[ReadColumn]]],
    num_buckets: int,
    fingerprint: str,
    work: Path,
    notify: Callable[[str], None],
) -> Manifest:
    rejects: dict[str, int] = {}
    num_rows, users = {}, 0
    with open_duckdb(config, work / "spill") as connection:
        for name, (source, columns) in tables.items():
            notify(f"{source.path}: {source.num_rows:,} {name} in {len(source.files)} files")
            bucketing = Bucketing(connection, source, columns, config, work, name)
            bad = bucketing.set_bad_rows_aside()
            if sum(bad.values()) < source.num_rows:
                written = bucketing.write_sorted(num_buckets)
                num_rows[name], repeats = written.rows, len(written.repeated)
                users = max(users, written.users)
            else:
                reasons = ", ".join(f"{reason} ({count:,})" for reason, count in bad.items())
                raise DataError(f"{source.path}: no row is left after the bad ones are set aside: {reasons}; fix them")
            for reason, count in (bad | ({DUPLICATE: repeats} if repeats else {})).items():
                notify(f"{source.path}: {count:,} rows set aside in {REJECTS}: {reason}")
                rejects[f"{name}: {reason}"] = count
        write_rejects(connection, work)
        impressions = "impressions" if "impressions" in tables else "events"
        moments = None
        if isinstance(config.split, SplitByTime):
            files = sorted((work / impressions).iterdir())
            validation = config.split.validation_from
            test = config.split.test_from
            if test is None:
                rank = rank_of(config.split.test, num_rows[impressions])
                test = time_at_rank(connection, files, rank) if rank < num_rows[impressions] else NEVER
            if validation is None:
                rank = rank_of(config.split.validation + config.split.test, num_rows[impressions])
                validation = time_at_rank(connection, files, rank) if rank < num_rows[impressions] else NEVER
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
        events=num_rows["events"],
        impressions=num_rows[impressions],
        users=users,
        rejects=rejects,
        num_buckets=num_buckets,
        moments=moments,
        split_counts=(),
    )


def _write_timelines(prepared: PreparedLog) -> Manifest:
    """Compute and write each bucket's timeline, and count users and splits."""
    counts = np.zeros((3, 2), np.int64)
    users = 0
    for bucket in prepared.buckets():
        timeline = write_timeline(prepared, bucket)
        users += len(timeline.users)
        label = np.ones(len(timeline.num_earlier)) if timeline.label is None else timeline.label
        counts += np.bincount(timeline.impression_split * 2 + (label > 0), minlength=6).reshape(3, 2)
    split_counts = tuple((int(zeros), int(ones)) for zeros, ones in counts)
    return prepared.manifest.model_copy(update={"users": users, "split_counts": split_counts})


def _check(prepared: PreparedLog, notify: Callable[[str], None], for_training: bool) -> None:
    if not for_training:
        return
    config = prepared.manifest.config
    where = config.impressions.path if isinstance(config.impressions, ImpressionFile) else config.log
    counts = np.array(prepared.manifest.split_counts, np.int64)
    for warning in check_splits(counts, where, labelled=not isinstance(config.impressions, NextEvent)):
        notify(warning)
