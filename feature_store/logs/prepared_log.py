"""A prepared log on disk, which `preparation.prepare` writes and every later step reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from feature_store.data_config import DataConfig, ImpressionFile
from feature_store.errors import DataError
from feature_store.logs.bucketing import BUCKET_HASH
from rm_rec.config.base import Settings

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TIMELINE_USERS, IMPRESSION_SPLITS, EVENT_SPLITS = "timeline-users", "impression-splits", "event-splits"
TABLES = (
    "events",
    "impressions",
    TIMELINE_USERS,
    IMPRESSION_SPLITS,
    EVENT_SPLITS,
)  # folders with one file for each bucket


class TimeMoments(Settings):
    """The times at which validation and test begin, where the log is split by time."""

    validation_from: int
    test_from: int


class Manifest(Settings):
    """The content of a prepared log, and what it was made from."""

    format_version: int = FORMAT_VERSION
    fingerprint: str
    """SHA-256 of the source files' names and contents and of the data config."""
    config: DataConfig
    sources: tuple[str, ...]
    """Files of events, relative to the log's folder."""
    impression_sources: tuple[str, ...] = ()
    """Files of impressions, where they are not in the log itself."""
    events: int
    users: int
    """Number of users, including those with impressions and no events."""
    impressions: int
    """Number of impressions, without sampled negatives."""
    rejects: dict[str, int]
    """Number of rows set aside, by reason."""
    num_buckets: int
    bucket_hash: str = BUCKET_HASH
    moments: TimeMoments | None = None
    split_counts: tuple[tuple[int, int], ...]
    """For each split, the numbers of impressions with label 0 and 1 (1 for next-event positives); none of a log without
    timelines."""


def read_manifest(path: Path | str) -> Manifest:
    """Read the manifest of a prepared log of any format; raises DataError if it cannot be read."""
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise DataError(f"{path}: no prepared log here (no {MANIFEST}); run prepare on the log first")
    try:
        return Manifest.model_validate_json(file.read_text())
    except ValidationError as error:
        reason = f"{error.error_count()} fields differ, the first is {error.errors()[0]['loc']}"
        raise DataError(f"{file}: written by another version ({reason}); prepare the log again") from error


@dataclass(frozen=True)
class PreparedLog:
    """A checked log on disk: buckets of whole users, each user's events in time order."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> "PreparedLog":
        """Open a log that `prepare` wrote; raises DataError if there is none, or one of another version."""
        manifest = read_manifest(path)
        if manifest.format_version != FORMAT_VERSION:
            raise DataError(
                f"{path}: a prepared log of format {manifest.format_version}, this version reads {FORMAT_VERSION}; "
                "prepare the log again"
            )
        return cls(Path(path), manifest)

    @property
    def num_buckets(self) -> int:
        """Number of buckets, each of which fits in memory."""
        return self.manifest.num_buckets

    @property
    def has_impressions(self) -> bool:
        """Whether impressions are in files of their own; else the events are the impressions."""
        return isinstance(self.manifest.config.impressions, ImpressionFile)

    @property
    def impression_columns(self) -> list[str]:
        """The columns of `impressions`."""
        return list(pq.read_schema(self.file("impressions" if self.has_impressions else "events", 0)).names)

    def file(self, table: str, bucket: int) -> Path:
        """Return the path of a bucket's file in one of `TABLES`."""
        if not 0 <= bucket < self.num_buckets:
            raise IndexError(f"bucket {bucket} of {self.num_buckets}")
        return self.path / table / f"bucket-{bucket:03d}.parquet"

    def events(self, bucket: int, columns: list[str] | None = None) -> pa.Table:
        """Read one bucket's events, sorted by user, time and row; its columns are user, item, time, row, feature:…"""
        return self._read("events", bucket, columns)

    def impressions(self, bucket: int, columns: list[str] | None = None) -> pa.Table:
        """Read one bucket's impressions, sorted in the same way; without files of their own they are the events."""
        return self._read("impressions" if self.has_impressions else "events", bucket, columns)

    def _read(self, name: str, bucket: int, columns: list[str] | None) -> pa.Table:
        with pq.ParquetFile(self.file(name, bucket)) as file:  # as a data set it would take twice the time
            table = file.read(columns)
        if columns is not None:
            table = table.select(columns)
        # A log that an earlier version wrote declares a column without nulls non-nullable.
        return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))

    def buckets(self) -> Iterator[int]:
        """Iterate over the buckets' indices."""
        return iter(range(self.num_buckets))
