"""Predictions to reports and figures, for every job that has some."""

from typing import Annotated

import pyarrow as pa
from matplotlib.figure import Figure
from pydantic import Field

from feature_store.errors import DataError
from pipelines.evaluation.figures.predictions import auc_by_history, calibration, comparison
from pipelines.evaluation.predictions import PredictionColumns, numbers, user_codes
from rm_rec.config.base import Settings
from rm_rec.evaluation.metrics import MetricError, calibration_bins
from rm_rec.evaluation.report import HISTORY_BUCKETS, Report, report


class MetricsConfig(Settings):
    """How metrics, their intervals and their groups are made."""

    resamples: int = Field(200, ge=0, le=100_000)
    """Times the users are drawn anew for the intervals; 0 leaves intervals out."""
    seed: int = Field(0, ge=0)
    """Seed of the draws."""
    calibration_bins: int = Field(20, ge=1)
    """Bins of equal numbers of impressions for the calibration error and its curve."""
    history_buckets: tuple[Annotated[int, Field(ge=0)], ...] = Field(HISTORY_BUCKETS, min_length=1)
    """The shortest history of each bucket, in events, increasing; shorter histories than the first are in no bucket."""


def evaluate_predictions(
    table: pa.Table, columns: PredictionColumns, settings: MetricsConfig, *, name: str = "predictions"
) -> Report:
    """Report on one table of predictions; `name` is what errors call it.

    Raises DataError where a column cannot be used or all labels are equal.
    """
    labels = numbers(table, columns.label, name)
    lengths = truth = None
    if columns.history_length in table.column_names:
        lengths = numbers(table, columns.history_length, name, at_least=0)
    if columns.true_probability in table.column_names:
        truth = numbers(table, columns.true_probability, name, at_least=0, at_most=1)
    try:
        found = report(
            labels,
            numbers(table, columns.prediction, name),
            user_codes(table, columns.user, name),
            history_lengths=lengths,
            true_probabilities=truth,
            history_buckets=settings.history_buckets,
            resamples=settings.resamples,
            seed=settings.seed,
            num_bins=settings.calibration_bins,
        )
    except MetricError as error:
        raise DataError(f"{name}: {error}") from error
    if found.overall.auc.value is None:
        raise DataError(f"{name}: all {len(labels):,} labels are {labels[0]:g}: no AUC exists; both classes are needed")
    return found


def figures_of(
    tables: dict[str, pa.Table], reports: dict[str, Report], columns: PredictionColumns, num_bins: int
) -> dict[str, Figure]:
    """Draw what the reports hold, by the name of the file each figure is written to."""
    figures: dict[str, Figure] = {}
    for place, (name, table) in enumerate(tables.items(), start=1):
        labels, predictions = (numbers(table, column, name) for column in (columns.label, columns.prediction))
        bins = calibration_bins(labels, predictions, num_bins)
        file = "calibration.png" if len(tables) == 1 else f"calibration_{place}.png"
        figures[file] = calibration(bins, predictions, name)
    if any(found.by_history for found in reports.values()):
        figures["auc_by_history.png"] = auc_by_history(reports)
    if len(reports) > 1:
        best = next(iter(reports.values())).best_possible_auc
        areas = {name: found.overall.auc for name, found in reports.items()}
        reference = None if best is None else ("best possible", best)
        figures["auc_by_model.png"] = comparison(areas, "AUC", baseline=0.5, reference=reference)
    return figures
