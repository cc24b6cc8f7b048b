"""A prepared log on disk: what `preparation.prepare` wrote, and every later step reads."""

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
TABLES = ("events", "impressions", TIMELINE_USERS, IMPRESSION_SPLITS, EVENT_SPLITS)  # folders of one file a bucket


class TimeMoments(Settings):
    """The first moments of validation and test, where the log is split by time."""

    validation_from: int
    test_from: int


class Manifest(Settings):
    """What a prepared log holds, and what it was made from."""

    format_version: int = FORMAT_VERSION
    fingerprint: str
    """SHA-256 over the source files' names and contents and the data config."""
    config: DataConfig
    sources: tuple[str, ...]
    """Files of events, relative to the log's folder."""
    impression_sources: tuple[str, ...] = ()
    """Files of impressions, where they have their own."""
    events: int
    users: int
    """Users with events, or with impressions alone."""
    impressions: int
    """Before negatives are sampled."""
    rejects: dict[str, int]
    """Rows set aside, by reason."""
    num_buckets: int
    bucket_hash: str = BUCKET_HASH
    moments: TimeMoments | None = None
    split_counts: tuple[tuple[int, int], ...]
    """For each split: impressions of label 0 and 1 (unlabelled positives count as 1)."""


def read_manifest(path: Path | str) -> Manifest:
    """Read what a prepared log was made from, of whatever format it is; DataError where that cannot be read."""
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise DataError(f"{path}: no prepared log here (no {MANIFEST}); run prepare on the log first")
    try:
        return Manifest.model_validate_json(file.read_text())
    except ValidationError as error:
        what = f"{error.error_count()} fields differ, the first is {error.errors()[0]['loc']}"
        raise DataError(f"{file}: written by another version ({what}); prepare the log again") from error


@dataclass(frozen=True)
class PreparedLog:
    """A checked log on disk: buckets of whole users, each user's events in time order."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> "PreparedLog":
        """Open what `prepare` wrote; anything else is a DataError."""
        manifest = read_manifest(path)
        if manifest.format_version != FORMAT_VERSION:
            raise DataError(
                f"{path}: a prepared log of format {manifest.format_version}, this version reads {FORMAT_VERSION}; "
                "prepare the log again"
            )
        return cls(Path(path), manifest)

    @property
    def num_buckets(self) -> int:
        """How many buckets there are; each fits in memory."""
        return self.manifest.num_buckets

    @property
    def has_impressions(self) -> bool:
        """Whether impressions lie in files of their own, rather than being the events."""
        return isinstance(self.manifest.config.impressions, ImpressionFile)

    @property
    def impression_columns(self) -> list[str]:
        """The columns of `impressions`."""
        return list(pq.read_schema(self.file("impressions" if self.has_impressions else "events", 0)).names)

    def file(self, table: str, bucket: int) -> Path:
        """Name the file of a bucket in one of `TABLES`."""
        if not 0 <= bucket < self.num_buckets:
            raise IndexError(f"bucket {bucket} of {self.num_buckets}")
        return self.path / table / f"bucket-{bucket:03d}.parquet"

    def events(self, bucket: int, columns: list[str] | None = None) -> pa.Table:
        """Read one bucket's events, sorted by user, time and row; named by `schema`: user, item, time, feature:…"""
        return self._read("events", bucket, columns)

    def impressions(self, bucket: int, columns: list[str] | None = None) -> pa.Table:
        """Read one bucket's impressions, sorted alike; without files of their own they are the events."""
        return self._read("impressions" if self.has_impressions else "events", bucket, columns)

    def _read(self, name: str, bucket: int, columns: list[str] | None) -> pa.Table:
        table = pq.read_table(self.file(name, bucket), columns=columns, partitioning=None)
        # DuckDB marks a column without nulls as such in one bucket and not in another; buckets are to be alike.
        return table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))

    def buckets(self) -> Iterator[int]:
        """Count through the buckets."""
        return iter(range(self.num_buckets))
