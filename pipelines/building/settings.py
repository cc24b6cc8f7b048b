"""Settings of building memories."""

from typing import Literal

from pydantic import Field

from rm_rec.config.base import Settings

LatePolicy = Literal["set-aside", "rebuild-user"]


class ReadConfig(Settings):
    """How the log is read."""

    bad_rows: Literal["error", "set_aside"] = "set_aside"
    """What to do with rows with a null id or an invalid time: stop at the first (error), or write them to OUT/rejects
    with the reason (set_aside)."""
    duplicate_rows: Literal["set_aside", "keep", "error"] = "set_aside"
    """What to do with rows of one build that are equal in every column that is read: keep the first and write the rest
    to OUT/rejects (set_aside), keep all, or stop (error)."""
    memory_limit_mb: int = Field(1000, ge=200)
    """Memory limit of sorting the log, in MB; the rest spills to disk."""
    events_per_bucket: int = Field(500_000, ge=1)
    """Approximate number of events in memory at a time."""
    batch_events: int = Field(65_536, ge=1)
    """Approximate number of events that are folded at a time, padding included."""
