"""The work of `pipelines.evaluate`, imported once its settings are read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from feature_store.errors import DataError
from feature_store.files import write_json, write_text
from pipelines.cli import resolved
from pipelines.cli.job import DONE, result_console
from pipelines.evaluate import EvaluateConfig
from pipelines.evaluation.evaluated import evaluate_predictions, figures_of
from pipelines.evaluation.predictions import align, distinct_names, numbers, read_predictions, user_codes
from pipelines.evaluation.tables import grids, markdown, print_report
from rm_rec.evaluation.report import Difference, Report, compare


def run(config: EvaluateConfig) -> int:
    """Evaluate predictions, or first make them with a model; return the exit code."""
    console = result_console()
    if config.model is not None and config.data is not None and config.out is not None:
        from pipelines.models.model_files import find_model
        from pipelines.training.score_log import score_log  # takes seconds to import, and only --model needs it

        scored = score_log(
            find_model(config.model, config.tracking_uri),
            config.data,
            config.split,
            Path(config.out),
            console.print,
            config.allow_package,
        )
        config = config.model_copy(update={"predictions": (str(scored),)})
    several = len(config.predictions) > 1
    names = distinct_names(config.predictions)
    tables = {
        name: read_predictions(path, config.columns, config.split, with_keys=several)
        for name, path in zip(names, config.predictions, strict=True)
    }
    reports = {
        name: evaluate_predictions(table, config.columns, config.metrics, name=path)
        for (name, table), path in zip(tables.items(), config.predictions, strict=True)
    }
    differences, notes = _compare_with_first(tables, config)
    tables_of_text = grids(reports, differences)
    print_report(console, tables_of_text, notes)
    if config.out is None:
        console.print("Add --out DIR to keep these numbers and their plots.")
        return DONE
    out = Path(config.out)
    figures = figures_of(tables, reports, config.columns, config.metrics.calibration_bins)
    _write(out, figures, markdown(tables_of_text, notes, list(figures)), _numbers(reports, differences, notes, config))
    console.print(f"Wrote {out / 'metrics.json'}, report.md and {len(figures)} plots.")
    return DONE


def _compare_with_first(
    tables: dict[str, pa.Table], config: EvaluateConfig
) -> tuple[dict[str, tuple[Difference, ...]], list[str]]:
    (first_name, first), *others = tables.items()
    differences: dict[str, tuple[Difference, ...]] = {}
    notes: list[str] = []
    for name, table in others:
        aligned = align(first, table, config.columns)
        if isinstance(aligned, str):
            notes.append(f"{name} is not compared with {first_name}: they are not the same impressions; {aligned}.")
            continue
        before, after = aligned
        differences[f"{name} less {first_name}, same impressions"] = compare(
            numbers(before, config.columns.label, first_name),
            numbers(before, config.columns.prediction, first_name),
            numbers(after, config.columns.prediction, name),
            user_codes(before, config.columns.user, first_name),
            resamples=config.metrics.resamples,
            seed=config.metrics.seed,
        )
    return differences, notes


def _numbers(
    reports: dict[str, Report],
    differences: dict[str, tuple[Difference, ...]],
    notes: list[str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    return {
        "models": {name: report.to_dict() for name, report in reports.items()},
        "differences": {title: [vars(row) for row in rows] for title, rows in differences.items()},
        "notes": notes,
        "config": resolved(config),
    }


def _write(out: Path, figures: dict[str, Figure], text: str, values: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(out / name)
        write_text(out / "report.md", text)
        # Last, so that its presence means that the evaluation is complete.
        write_json(out / "metrics.json", values)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror}") from error
