"""Results of measuring a run's retention: retention.json, curves and figures, a table; another run's beside them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from feature_store.errors import DataError
from feature_store.files import write_json
from pipelines.evaluation.figures.retention import auc_by_age, recollection_by_age
from pipelines.evaluation.predictions import distinct_names
from pipelines.evaluation.retention import Retention
from pipelines.runs import tracking
from rm_rec.evaluation.by_age import AgePoint, Answers, Curve, Recollection
from rm_rec.evaluation.report import shortest_of

RETENTION = "retention.json"
_Points = dict[str, AgePoint | None]


def read_retention(folder: Path) -> Retention | None:
    """Return the retention of a folder's run; None if it was not measured or the file is damaged."""
    try:
        return TypeAdapter(Retention).validate_json((folder / RETENTION).read_bytes())
    except (OSError, ValidationError):
        return None


def read_comparable(compare_with: str, out: Path, conditions: Mapping[str, Any]) -> Retention:
    """Read another run's retention, to draw beside that of the run in `out`.

    Raises:
        DataError: it was not measured, or under other conditions, so that curves would not compare.
    """
    folder = Path(compare_with)
    if folder.resolve() == out.resolve():
        raise DataError(f"compare_with {folder}: this is the run's own folder; name another run's")
    other = read_retention(folder)
    if other is None:
        existing = "one that is damaged or of another version" if (folder / RETENTION).exists() else "none"
        raise DataError(
            f"compare_with {folder}: expected a {RETENTION}, found {existing}; measure that run first: "
            f"python -m pipelines.retention --run {folder}"
        )
    for key, ours in conditions.items():
        if (theirs := other.conditions.get(key)) != ours:
            raise DataError(
                f"compare_with {folder}: {key} is {theirs} there, {ours} here; curves compare only where log, data "
                "settings, model.segment_length and retention settings are the same"
            )
    return other


def keep(out: Path, ours: Retention, other: Retention | None, *, tracked: bool) -> None:
    """Write figures and numbers to the run's folder and, if `tracked`, to the MLflow run that is open."""
    values, drawn = dataclasses.asdict(ours), figures(out, ours, other)
    for name, figure in drawn.items():
        figure.savefig(out / name)
    if tracked:
        for name, curve in _curves(ours).items():
            tracking.log_curve(f"retention_{name}", curve)
        tracking.log_report(values, drawn, file=RETENTION)
    write_json(out / RETENTION, values)  # last: its presence says that everything is written


def figures(out: Path, ours: Retention, other: Retention | None) -> dict[str, Figure]:
    """Return figures of one run's curves, or of two runs', by file name."""
    measured = _by_name(out, ours, other)
    length = ours.conditions["model.segment_length"]
    recollections = {name: one.recollection for name, one in measured.items() if one.recollection is not None}
    drawn: dict[str, Figure] = {}
    if recollections:
        drawn["retention_recollection.png"] = recollection_by_age(recollections, length)
    rankings = {name: one.ranking for name, one in measured.items()}
    drawn["retention_auc.png"] = auc_by_age(rankings, length, ours.window_segments)
    return drawn


def print_retention(console: Console, out: Path, ours: Retention, other: Retention | None) -> None:
    """Print a row for each bin of ages: numbers of events and impressions, recollection and AUC."""
    measured = _by_name(out, ours, other)
    table = Table(
        title=f"Retention by age, in segments of {ours.conditions['model.segment_length']} events", title_justify="left"
    )
    recollections = {name: one.recollection for name, one in measured.items() if one.recollection is not None}
    rows_label = "impressions" if ours.ranking.known_age else "clicks"
    columns = ["age", *(["masked events"] if recollections else []), *(f"{name} recollects" for name in recollections)]
    for column in [*columns, rows_label, *(f"{name} AUC" for name in measured)]:
        table.add_column(column, justify="right", overflow="fold")
    asked: list[_Points] = [{**r.memory.by_age, "all": r.memory.overall} for r in recollections.values()]
    alone: list[_Points] = [{**r.alone.by_age, "all": r.alone.overall} for r in recollections.values()]
    ranked: list[_Points] = [{**one.ranking.by_age, "never": one.ranking.never} for one in measured.values()]
    ages = sorted({age for curve in [*asked, *ranked] for age in curve} - {"all", "never"}, key=shortest_of)
    for age in [*ages, *(["never"] if any(curve["never"] for curve in ranked) else []), *(["all"] if asked else [])]:
        cells = [_rows(asked, age)] if asked else []
        cells += [_percent(one.get(age), without.get(age)) for one, without in zip(asked, alone, strict=True)]
        table.add_row(age, *cells, _rows(ranked, age), *(_auc(curve.get(age)) for curve in ranked))
    console.print(table, soft_wrap=False)
    if recollections:
        console.print("recollects: masked events picked out of 100 candidates; in brackets, without the memory")
    if ours.recollection is None:
        console.print("No recollection curve of this run: its model has no memory, or no history is long enough.")


def _by_name(out: Path, ours: Retention, other: Retention | None) -> dict[str, Retention]:
    """Name each run by its folder."""
    if other is None or ours.compared_with is None:
        return {out.resolve().name: ours}
    names = distinct_names((str(out.resolve() / RETENTION), str(Path(ours.compared_with).resolve() / RETENTION)))
    return dict(zip(names, (ours, other), strict=True))


def _curves(retention: Retention) -> dict[str, dict[int, float]]:
    """Return the curves by metric name; steps are each bin's smallest age, and 0 for values without an age."""
    curves: dict[str, Curve] = {"auc": retention.ranking.by_age}
    single = {"auc_never": retention.ranking.never}
    if retention.recollection is not None:
        for name, answers in _answers(retention.recollection).items():
            curves[name], single[f"{name}_all"] = answers.by_age, answers.overall
    points = {name: {shortest_of(age): point for age, point in curve.items()} for name, curve in curves.items()}
    points |= {name: {0: point} for name, point in single.items() if point is not None}
    values = {name: {age: p.estimate.value for age, p in curve.items()} for name, curve in points.items()}
    return {name: {age: v for age, v in curve.items() if v is not None} for name, curve in values.items()}


def _answers(recollection: Recollection) -> dict[str, Answers]:
    answers = {"recollection": recollection.memory, "recollection_alone": recollection.alone}
    if recollection.another_user is not None:
        answers["recollection_another_user"] = recollection.another_user
    return answers


def _rows(curves: list[_Points], age: str) -> str:
    counts = dict.fromkeys(f"{point.rows:,}" for curve in curves if (point := curve.get(age)) is not None)
    return " / ".join(counts)


def _percent(point: AgePoint | None, without: AgePoint | None) -> str:
    if point is None or without is None:
        return ""
    return f"{point.estimate.value:.1%} ({without.estimate.value:.1%})"


def _auc(point: AgePoint | None) -> str:
    return "" if point is None else "undefined" if point.estimate.value is None else f"{point.estimate.value:.4f}"
