"""Reports as tables: on the terminal, and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rm_rec.evaluation.report import Difference, Estimate, Report, Scores, shortest_of

_METRICS = (
    ("AUC", "auc"),
    ("Grouped AUC, by impressions", "grouped_auc_by_impressions"),
    ("Grouped AUC, by user", "grouped_auc_by_user"),
    ("Logloss (nats)", "logloss"),
    ("Normalised entropy", "normalised_entropy"),
)
_LABELS = {name: label for label, name in _METRICS}
_Grid = tuple[str, list[str], list[list[str]]]  # title, header, rows


def grids(reports: Mapping[str, Report], differences: Mapping[str, Sequence[Difference]]) -> list[_Grid]:
    """Return reports as titled tables of text: overall, by length of history, and each model against the first."""
    models = list(reports)
    overall = [
        [label, *(_with_interval(getattr(r.overall, name)) for r in reports.values())] for label, name in _METRICS
    ]
    overall += [
        ["Calibration: predicted / actual clicks", *(_number(r.overall.calibration_ratio) for r in reports.values())],
        ["Calibration: expected error", *(_number(r.overall.calibration_error) for r in reports.values())],
    ]
    if any(report.best_possible_auc is not None for report in reports.values()):
        overall.append(["Best possible AUC", *(_number(r.best_possible_auc) for r in reports.values())])
    overall += [
        ["Impressions", *(f"{r.overall.rows:,}" for r in reports.values())],
        ["Click rate", *(_number(r.overall.base_rate) for r in reports.values())],
        ["Users", *(f"{r.overall.users:,}" for r in reports.values())],
        ["Users of one class, not in grouped AUC", *(f"{r.overall.users_left_out:,}" for r in reports.values())],
    ]
    tables: list[_Grid] = [("Overall, 95 % intervals over users", ["", *models], overall)]
    buckets = sorted({bucket for report in reports.values() for bucket in report.by_history}, key=shortest_of)
    if buckets:
        header = ["Events before", "Impressions", *models]
        tables.append(("AUC by length of history", header, [_bucket(name, reports) for name in buckets]))
    for title, rows in differences.items():
        cells = [
            [
                _LABELS[row.metric],
                _with_interval(Estimate(row.value, row.low, row.high), "+"),
                _fraction(row.share_better),
            ]
            for row in rows
        ]
        tables.append((title, ["", "Difference", "Better in"], cells))
    return tables


def print_report(console: Console, tables: Iterable[_Grid], notes: Sequence[str]) -> None:
    """Print tables, then notes."""
    for title, header, rows in tables:
        table = Table(title=title, title_justify="left", title_style="bold")
        for position, name in enumerate(header):
            table.add_column(name, justify="left" if position == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes:
        console.print(note, markup=False)


def print_training(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the held-out metrics of metrics.json."""
    table = Table(title=f"Best epoch {metrics['best_epoch']} of {len(metrics['epochs'])}", title_justify="left")
    has_best = metrics["test"]["best_possible_auc"] is not None  # on synthetic logs only
    columns = ["", "impressions", "AUC", "95 % interval", "AUC within users", "logloss"]
    for column in [*columns, "best possible AUC"] if has_best else columns:
        table.add_column(column, justify="right")
    for name in ("validation", "test"):
        row = metrics[name]
        interval = "-" if row["auc_low"] is None else f"{row['auc_low']:.4f} to {row['auc_high']:.4f}"
        grouped = "-" if row["grouped_auc"] is None else f"{row['grouped_auc']:.4f}"
        best = [f"{row['best_possible_auc']:.4f}"] if has_best else []
        cells = [f"{row['impressions']:,}", f"{row['auc']:.4f}", interval, grouped, f"{row['logloss']:.4f}"]
        table.add_row(name, *cells, *best)
    console.print(table, soft_wrap=False)


def markdown(tables: Iterable[_Grid], notes: Sequence[str], images: Sequence[str]) -> str:
    """Return tables as Markdown, then notes, then images by file name."""
    lines = ["# Evaluation", ""]
    for title, header, rows in tables:
        lines += [f"## {title}", "", markdown_table(header, rows), ""]
    lines += [f"{note}\n" for note in notes]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in images]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown: the first column aligned left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(map(_line, lines))


def _bucket(name: str, reports: Mapping[str, Report]) -> list[str]:
    scores: list[Scores | None] = [report.by_history.get(name) for report in reports.values()]
    counts = dict.fromkeys(f"{score.rows:,}" for score in scores if score is not None)
    return [name, " / ".join(counts), *("" if score is None else _with_interval(score.auc) for score in scores)]


def _with_interval(estimate: Estimate, sign: str = "") -> str:
    value = _number(estimate.value, sign)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{_number(estimate.low, sign)}, {_number(estimate.high, sign)}]"


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.4f}"


def _fraction(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.0%} of resamples"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
