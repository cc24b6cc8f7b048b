"""Evaluate predicted click probabilities of any model, with intervals, and compare models on the same impressions.

python -m pipelines.evaluate --predictions mine.parquet --out evaluation
python -m pipelines.evaluate --predictions old.parquet --predictions new.parquet --out evaluation
python -m pipelines.evaluate --model runs/mine/model --data.log my_log.parquet --out evaluation
"""

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from matplotlib.figure import Figure
from pydantic import model_validator

from feature_store.data_config import DataConfig
from feature_store.errors import DataError
from feature_store.files import write_json, write_text
from pipelines.cli import load_settings, resolved
from pipelines.cli.job import DONE, result_console, run_job
from pipelines.evaluation.evaluated import MetricsConfig, evaluate_predictions, figures_of
from pipelines.evaluation.predictions import (
    PredictionColumns,
    align,
    distinct_names,
    numbers,
    read_predictions,
    user_codes,
)
from pipelines.evaluation.tables import grids, markdown, print_report
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName
from rm_rec.evaluation.report import Difference, Report, compare


class EvaluateConfig(Settings):
    """What to evaluate, and how."""

    predictions: tuple[str, ...] = ()
    """Parquet file or folder of predictions; give the option again to compare others with the first."""
    model: str | None = None
    """Trained model that scores `data`, instead of reading --predictions: its folder, its run's folder, or an address
    in MLflow such as models:/NAME@ALIAS."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI of a model in MLflow."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""
    data: DataConfig | None = None
    """Log that the model scores. Columns and impressions are the model's unless given; the vocabulary is always the
    model's."""
    out: str | None = None
    """Output folder for metrics.json, report.md, the plots and, with --model, predictions.parquet; null only prints the
    tables."""
    split: str | None = "test"
    """Split whose rows are evaluated, if the file has a column of splits; null for all rows."""
    columns: PredictionColumns = PredictionColumns()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _one_source_of_predictions(self) -> Self:
        if (self.model is None) != (self.data is None):
            raise ValueError("a model scores a log: give both --model FOLDER and --data.log PATH")
        if bool(self.predictions) == (self.model is not None):
            raise ValueError("give either --predictions FILE, or --model FOLDER and --data.log PATH")
        if self.model is not None and self.out is None:
            raise ValueError("--model needs --out FOLDER, for its predictions")
        return self


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    config = load_settings(
        EvaluateConfig,
        argv,
        prog="python -m pipelines.evaluate",
        description="Evaluate predicted click probabilities, and compare models on the same impressions.",
        examples=(
            "python -m pipelines.evaluate --predictions mine.parquet --out evaluation",
            "python -m pipelines.evaluate --predictions old.parquet --predictions new.parquet",
            "python -m pipelines.evaluate --model runs/mine/model --data.log my_log.parquet --out evaluation",
        ),
    )
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


if __name__ == "__main__":
    run_job(main)
