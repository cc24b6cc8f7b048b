"""Settings of evaluation: metrics, columns of predictions, and retention."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from rm_rec.config.base import Settings
from rm_rec.evaluation.bins import AGE_BINS, HISTORY_BUCKETS

DECIDING_AGE = "deciding_age"  # the column's name in the synthetic log


class MetricsConfig(Settings):
    """Intervals, calibration bins and groups of the metrics."""

    resamples: int = Field(200, ge=0, le=100_000)
    """Number of bootstrap resamples of users for the 95 % intervals; 0 leaves intervals out."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    calibration_bins: int = Field(20, ge=1)
    """Number of bins, of equal numbers of impressions each, for the calibration error and its curve."""
    history_buckets: tuple[Annotated[int, Field(ge=0)], ...] = Field(HISTORY_BUCKETS, min_length=1)
    """Shortest history of each bucket, in events, increasing; histories shorter than the first are in no bucket."""


class PredictionColumns(Settings):
    """Names of the predictions' columns; only user, label and prediction are required."""

    user: str = "user_id"
    """User of the impression: integers or strings."""
    item: str = "item_id"
    """Item that was shown; only used to check that two files have the same impressions."""
    time: str = "timestamp"
    """Time of the impression; only used to check that two files have the same impressions."""
    split: str = "split"
    """Split of the impression, by name or by number (0 train, 1 validation, 2 test)."""
    label: str = "label"
    """Whether the item was clicked: 0 or 1, or a boolean."""
    prediction: str = "prediction"
    """Predicted click probability, from 0 to 1."""
    history_length: str = "history_length"
    """Number of the user's events before the impression."""
    true_probability: str = "true_probability"
    """True click probability, in synthetic data: it gives the best possible AUC."""

    def required(self) -> tuple[str, ...]:
        """Return the columns that every evaluation needs."""
        return (self.user, self.label, self.prediction)

    def impression_keys(self) -> tuple[str, ...]:
        """Return the columns that identify an impression."""
        return (self.user, self.time, self.item)


class RetentionConfig(Settings):
    """How recollection and click AUC are measured by age. Two runs can be compared only if these settings, the log, the
    data settings and model.segment_length are equal."""

    probe_steps: int = Field(300, ge=1)
    """Training steps of the decoder that reads the finished memory; the memory itself is not trained."""
    events_asked: int = Field(50_000, ge=1)
    """Approximate number of masked events that the decoder is tested on, of randomly drawn users."""
    age_column: str = Field(DECIDING_AGE, min_length=1)
    """Column of predictions.parquet with the age, in events, of the event that decides the click (0: no event does); it
    is converted to segments. If the default column is missing, the age is that of the user's last event on the item."""
    age_bins: tuple[Annotated[int, Field(ge=0)], ...] = Field(AGE_BINS, min_length=1)
    """Smallest age of each bin, in segments, increasing."""
    seed: int = Field(0, ge=0)
    """Seed of the decoder's weights and of the events that it is trained and tested on."""

    @model_validator(mode="after")
    def _bins_increase(self) -> Self:
        if list(self.age_bins) != sorted(set(self.age_bins)):
            raise ValueError(f"age_bins must increase, found {list(self.age_bins)}")
        return self
