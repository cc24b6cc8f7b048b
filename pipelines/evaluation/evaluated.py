"""Reports and figures from a table of predictions, for all jobs."""

import pyarrow as pa
from matplotlib.figure import Figure

from feature_store.errors import DataError
from pipelines.evaluation.figures.predictions import auc_by_history, calibration, comparison
from pipelines.evaluation.predictions import numbers, user_codes
from pipelines.evaluation.settings import MetricsConfig, PredictionColumns
from rm_rec.evaluation.metrics import MetricError, calibration_bins
from rm_rec.evaluation.report import Report
from rm_rec.evaluation.report import report as make_report


def evaluate_predictions(
    table: pa.Table, columns: PredictionColumns, settings: MetricsConfig, *, name: str = "predictions"
) -> Report:
    """Return the report of one table of predictions; `name` is its name in errors.

    Raises DataError if a column cannot be used or all labels are equal.
    """
    labels = numbers(table, columns.label, name)
    lengths = true_probabilities = None
    if columns.history_length in table.column_names:
        lengths = numbers(table, columns.history_length, name, at_least=0)
    if columns.true_probability in table.column_names:
        true_probabilities = numbers(table, columns.true_probability, name, at_least=0, at_most=1)
    try:
        result = make_report(
            labels,
            numbers(table, columns.prediction, name),
            user_codes(table, columns.user, name),
            history_lengths=lengths,
            true_probabilities=true_probabilities,
            history_buckets=settings.history_buckets,
            resamples=settings.resamples,
            seed=settings.seed,
            num_bins=settings.calibration_bins,
        )
    except MetricError as error:
        raise DataError(f"{name}: {error}") from error
    if result.overall.auc.value is None:
        raise DataError(f"{name}: all {len(labels):,} labels are {labels[0]:g}: no AUC exists; both classes are needed")
    return result


def figures_of(
    tables: dict[str, pa.Table], reports: dict[str, Report], columns: PredictionColumns, num_bins: int
) -> dict[str, Figure]:
    """Draw reports; return each figure by the name of the file that it is written to."""
    figures: dict[str, Figure] = {}
    for number, (name, table) in enumerate(tables.items(), start=1):
        labels, predictions = (numbers(table, column, name) for column in (columns.label, columns.prediction))
        bins = calibration_bins(labels, predictions, num_bins)
        file = "calibration.png" if len(tables) == 1 else f"calibration_{number}.png"
        figures[file] = calibration(bins, predictions, name)
    if any(report.by_history for report in reports.values()):
        figures["auc_by_history.png"] = auc_by_history(reports)
    if len(reports) > 1:
        best = next(iter(reports.values())).best_possible_auc
        aucs = {name: report.overall.auc for name, report in reports.items()}
        reference = None if best is None else ("best possible", best)
        figures["auc_by_model.png"] = comparison(aucs, "AUC", baseline=0.5, reference=reference)
    return figures
