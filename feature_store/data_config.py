"""How a recipe describes a log: its column names, where labels come from, how it is split; column names live here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rm_rec.config.base import Settings

USER, ITEM, TIME, ROW = "user", "item", "time", "row"  # the names inside a prepared log
LABEL, SPLIT, NUM_EARLIER = "label", "split", "num_earlier"
SPLITS = ("train", "validation", "test")  # an impression's split is the index into this


def feature_column(name: str) -> str:
    """Name a categorical feature's column in a prepared log: a prefix, so that a log may call a feature "label"."""
    return f"feature:{name}"


def dense_column(name: str) -> str:
    """Name a numeric context column in a prepared log."""
    return f"dense:{name}"


def carry_column(name: str) -> str:
    """Name a carried column in a prepared log."""
    return f"carry:{name}"


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Columns(Settings):
    """The log's own column names."""

    user: str = "user_id"
    """Who acted: integers or strings."""
    item: str = "item_id"
    """On what: integers or strings."""
    time: str = "timestamp"
    """When: integers of any unit, or Arrow timestamps (read as microseconds). Orders a user's events."""
    event_features: tuple[str, ...] = ()
    """Categorical columns of the event itself (action, device, outcome): seen by later events, never by targets."""
    item_features: tuple[str, ...] = ()
    """Categorical columns that belong to the item (category, brand): events and targets carry them."""

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        names = self.event_features + self.item_features
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: named twice; a column is an event feature or an item feature")
        if ITEM in names:
            raise ValueError(f"a feature cannot be called '{ITEM}', which names the item's own id: rename the column")
        return self


class NextEvent(Settings):
    """Every event is a positive impression; negatives are sampled items."""

    kind: Literal["next_event"] = "next_event"
    negatives: int = Field(1, ge=1, le=100)
    """Sampled negatives for each positive."""
    sampling: Literal["popularity", "uniform"] = "popularity"
    """How negatives are drawn from the items of the training split."""


class LabelColumn(Settings):
    """Every event is an impression of its own item, with a label in one of its columns."""

    kind: Literal["label"] = "label"
    column: str = "label"
    """The column that says whether the impression was clicked."""
    threshold: float | None = None
    """A click is a value of at least this; without it the column must hold 0 and 1 (or booleans)."""
    context_features: tuple[str, ...] = ()
    """Categorical columns known when the impression is shown (position, device)."""
    context_dense: tuple[str, ...] = ()
    """Numeric columns known when the impression is shown."""
    carry: tuple[str, ...] = ()
    """Numeric columns copied to the predictions for analysis (a known click probability); the model never sees them."""


class ImpressionFile(Settings):
    """Impressions in Parquet of their own, beside the log of events."""

    kind: Literal["file"] = "file"
    path: str
    """One Parquet file, a folder of them, or a glob."""
    user: str | None = None
    """As in the log unless given; so are item and time."""
    item: str | None = None
    time: str | None = None
    column: str = "label"
    """The column that says whether the impression was clicked."""
    threshold: float | None = None
    """A click is a value of at least this; without it the column must hold 0 and 1 (or booleans)."""
    context_features: tuple[str, ...] = ()
    """Categorical columns known when the impression is shown (position, device)."""
    context_dense: tuple[str, ...] = ()
    """Numeric columns known when the impression is shown."""
    carry: tuple[str, ...] = ()
    """Numeric columns copied to the predictions for analysis (a known click probability); the model never sees them."""


Impressions = Annotated[NextEvent | LabelColumn | ImpressionFile, Field(discriminator="kind")]


class _Shares(Settings):
    validation: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


class SplitByPosition(_Shares):
    """Within each user: the first events train, the next validate, the last test."""

    kind: Literal["position"] = "position"
    validation: Fraction = 0.1
    """Share of each user's history, before the test share."""
    test: Fraction = 0.1
    """Share of each user's history, at its end."""


class SplitByTime(_Shares):
    """At two moments, the same for all users."""

    kind: Literal["time"] = "time"
    validation: Fraction = 0.1
    """Share of all impressions, before the test share; set aside if `validation_from` is given."""
    test: Fraction = 0.1
    """Share of all impressions, at the end; set aside if `test_from` is given."""
    validation_from: int | None = None
    """First moment of validation, in the log's unit of time."""
    test_from: int | None = None
    """First moment of test, in the log's unit of time."""


class SplitByUser(_Shares):
    """Whole users are held out; a user's split is a hash of its id and the seed."""

    kind: Literal["user"] = "user"
    validation: Fraction = 0.1
    """Share of users."""
    test: Fraction = 0.1
    """Share of users."""
    seed: int = 0


Split = Annotated[SplitByPosition | SplitByTime | SplitByUser, Field(discriminator="kind")]


class VocabularySizes(Settings):
    """How ids become embedding rows; counted on training events only."""

    min_count: int = Field(2, ge=1)
    """Ids seen less often in training share the out-of-vocabulary rows, which is how those rows are trained."""
    max_rows: int = Field(2_000_000, ge=1)
    """At most this many ids a feature get a row of their own, the most frequent first."""
    oov_rows: int = Field(8, ge=1)
    """Rows shared by all other ids, known or not, by a hash that never changes."""


class DataConfig(Settings):
    """A log, and what to make of it."""

    log: str
    """One Parquet file, a folder of them (hive-partitioned or not), or a glob."""
    columns: Columns = Columns()
    impressions: Impressions = NextEvent()
    split: Split = SplitByPosition()
    vocabulary: VocabularySizes = VocabularySizes()
    bad_rows: Literal["error", "set_aside"] = "error"
    """Rows with a null id, a null, NaN or negative time, a null label, or a dense value that is not a finite
    number: stop at the first, or count them and write them to rejects.parquet with the reason."""
    duplicate_rows: Literal["set_aside", "keep", "error"] = "set_aside"
    """Rows equal in every column that is read: keep the first and write the others to rejects.parquet; keep all; or
    stop."""
    seed: int = 0
    """Seed of the sampled negatives."""
    memory_limit_mb: int = Field(1000, ge=200)
    """What sorting the log may hold in memory; the rest spills to disk."""
    events_per_bucket: int = Field(2_000_000, ge=1)
    """Users are hashed into buckets of about this many events; one bucket is in memory at a time."""

    @model_validator(mode="after")
    def _context_is_not_the_item(self) -> Self:
        if not isinstance(self.impressions, NextEvent) and ITEM in self.impressions.context_features:
            raise ValueError(f"a feature cannot be called '{ITEM}', which names the item's own id: rename the column")
        return self
