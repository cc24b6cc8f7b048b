"""Settings that describe a log: its columns, labels and split; and the column names of a prepared log."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rm_rec.config.base import Settings

USER, ITEM, TIME, ROW = "user", "item", "time", "row"  # names of columns in a prepared log
LABEL, SPLIT, NUM_EARLIER = "label", "split", "num_earlier"
SPLITS = ("train", "validation", "test")  # an impression's split is an index into this


def feature_column(name: str) -> str:
    """Return the column of a categorical feature in a prepared log; the prefix allows a feature called "label"."""
    return f"feature:{name}"


def dense_column(name: str) -> str:
    """Return the column of a numeric context value in a prepared log."""
    return f"dense:{name}"


def carry_column(name: str) -> str:
    """Return the column of a carried value in a prepared log."""
    return f"carry:{name}"


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Columns(Settings):
    """Names of the log's columns."""

    user: str = "user_id"
    """Column of user ids: integers or strings."""
    item: str = "item_id"
    """Column of item ids: integers or strings."""
    time: str = "timestamp"
    """Column of times, by which a user's events are ordered: integers in any unit, or Arrow timestamps (read as
    microseconds)."""
    event_features: tuple[str, ...] = ()
    """Categorical columns of the event (action, device, outcome): part of the history, never of the target."""
    item_features: tuple[str, ...] = ()
    """Categorical columns of the item (category, brand): part of the history and of the target."""

    @model_validator(mode="after")
    def _feature_names_are_unique(self) -> Self:
        names = self.event_features + self.item_features
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: listed twice; list each once, as event or as item feature")
        if ITEM in names:
            raise ValueError(f"a feature cannot be called '{ITEM}', the name of the item id; rename the column")
        return self


class NextEvent(Settings):
    """Every event is a positive impression, and items sampled beside it are negatives."""

    kind: Literal["next_event"] = "next_event"
    negatives: int = Field(1, ge=1, le=100)
    """Number of sampled negatives for each positive."""
    sampling: Literal["popularity", "uniform"] = "popularity"
    """Distribution of the negatives over the items of the training split: by their number of events, or uniform."""


class LabelColumn(Settings):
    """Every event is an impression of its own item, with a label in one of its columns."""

    kind: Literal["label"] = "label"
    column: str = "label"
    """Column of the click label: 0 and 1, booleans, or numbers with a threshold."""
    threshold: float | None = None
    """Smallest value of the label column that counts as a click; null: the column has 0 and 1, or booleans."""
    context_features: tuple[str, ...] = ()
    """Categorical columns known when the impression is shown (position, device), inputs of the click head."""
    context_dense: tuple[str, ...] = ()
    """Numeric columns known when the impression is shown, inputs of the click head."""
    carry: tuple[str, ...] = ()
    """Numeric columns copied to the predictions for analysis (a known click probability); no input of the model."""


class ImpressionFile(Settings):
    """Impressions in Parquet files of their own, beside the log of events."""

    kind: Literal["file"] = "file"
    path: str
    """Files of impressions: one Parquet file, a folder of them, or a glob."""
    user: str | None = None
    """Column of user ids in these files; null: the same name as in the log."""
    item: str | None = None
    """Column of item ids in these files; null: the same name as in the log."""
    time: str | None = None
    """Column of times in these files; null: the same name as in the log."""
    column: str = "label"
    """Column of the click label: 0 and 1, booleans, or numbers with a threshold."""
    threshold: float | None = None
    """Smallest value of the label column that counts as a click; null: the column has 0 and 1, or booleans."""
    context_features: tuple[str, ...] = ()
    """Categorical columns known when the impression is shown (position, device), inputs of the click head."""
    context_dense: tuple[str, ...] = ()
    """Numeric columns known when the impression is shown, inputs of the click head."""
    carry: tuple[str, ...] = ()
    """Numeric columns copied to the predictions for analysis (a known click probability); no input of the model."""


Impressions = Annotated[NextEvent | LabelColumn | ImpressionFile, Field(discriminator="kind")]


class _HeldOut(Settings):
    validation: Fraction = 0.1
    test: Fraction = 0.1

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on; lower them")
        return self


class SplitByPosition(_HeldOut):
    """Split each user's impressions by position: first those for training, then validation, then test."""

    kind: Literal["position"] = "position"
    validation: Fraction = 0.1
    """Fraction of each user's history for validation, just before the fraction for test."""
    test: Fraction = 0.1
    """Fraction of each user's history, at its end, for test."""


class SplitByTime(_HeldOut):
    """Split at two times, the same for all users."""

    kind: Literal["time"] = "time"
    validation: Fraction = 0.1
    """Fraction of all impressions for validation, just before the fraction for test; ignored with `validation_from`."""
    test: Fraction = 0.1
    """Fraction of all impressions, the latest, for test; ignored with `test_from`."""
    validation_from: int | None = None
    """Time at which validation begins, in the log's unit; null: set by the fractions."""
    test_from: int | None = None
    """Time at which test begins, in the log's unit; null: set by the fraction `test`."""


class SplitByUser(_HeldOut):
    """Split by users: all impressions of a user are in one split, by a hash of the user's id and the seed."""

    kind: Literal["user"] = "user"
    validation: Fraction = 0.1
    """Fraction of users for validation."""
    test: Fraction = 0.1
    """Fraction of users for test."""
    seed: int = 0
    """Seed of the hash that assigns users to splits."""


Split = Annotated[SplitByPosition | SplitByTime | SplitByUser, Field(discriminator="kind")]


class VocabularySizes(Settings):
    """How ids are mapped to rows of embedding tables; frequencies are counted on training events only."""

    min_count: int = Field(2, ge=1)
    """Least number of occurrences in training with which an id gets a row of its own. Rarer ids share the
    out-of-vocabulary rows, which are trained on them."""
    max_rows: int = Field(2_000_000, ge=1)
    """Largest number of ids of each feature that get a row of their own, the most frequent ones."""
    oov_rows: int = Field(8, ge=1)
    """Number of out-of-vocabulary rows of each feature, which all other ids share by a fixed hash."""


class DataConfig(Settings):
    """The log, and how it is read, split and mapped to embedding rows."""

    log: str
    """Files of the log: one Parquet file, a folder of them (hive-partitioned or not), or a glob."""
    columns: Columns = Columns()
    impressions: Impressions = NextEvent()
    """Which rows are impressions, and which of them are clicks."""
    split: Split = SplitByPosition()
    """How impressions are divided into training, validation and test."""
    vocabulary: VocabularySizes = VocabularySizes()
    bad_rows: Literal["error", "set_aside"] = "error"
    """What to do with bad rows (a null id, a null, NaN or negative time, a null label, a dense value that is not
    finite): `error` stops at the first, `set_aside` counts them and writes them to rejects.parquet with the reason."""
    duplicate_rows: Literal["set_aside", "keep", "error"] = "set_aside"
    """What to do with rows that are equal in every column that is read: `set_aside` keeps the first and writes the
    others to rejects.parquet, `keep` keeps all, `error` stops."""
    seed: int = 0
    """Seed of the sampled negatives."""
    memory_limit_mb: int = Field(1000, ge=200)
    """Memory limit of sorting the log, in MB; the rest is written to temporary files."""
    events_per_bucket: int = Field(2_000_000, ge=1)
    """Approximate number of events in each bucket that users are hashed into. One bucket is in memory at a time, so
    that a lower number uses less memory."""

    @model_validator(mode="after")
    def _context_is_not_the_item(self) -> Self:
        if not isinstance(self.impressions, NextEvent) and ITEM in self.impressions.context_features:
            raise ValueError(f"a feature cannot be called '{ITEM}', the name of the item id; rename the column")
        return self
