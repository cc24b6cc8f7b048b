"""The record of a decision of the gate: a table on the terminal, files in a folder, and a run in MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
from matplotlib.figure import Figure
from rich.console import Console

from feature_store.files import sha256_of_json, write_json, write_text
from pipelines.evaluation.evaluated import evaluate_predictions, figures_of
from pipelines.evaluation.settings import MetricsConfig, PredictionColumns
from pipelines.evaluation.tables import grids, markdown, print_report
from pipelines.promotion.contenders import Contender
from pipelines.promotion.gate import Check, Judgement
from pipelines.registry.model_registry import MOVED, Version
from pipelines.runs import run_folder
from pipelines.runs.tracking import log_once
from rm_rec.evaluation.report import Report


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes the champion, and on what evidence."""

    candidate: Version
    champion: Version | None
    contenders: tuple[Contender, ...]
    """The candidate, then the model that it was compared with, if it was."""
    checks: tuple[Check, ...]
    judgement: Judgement | None
    """None if the candidate was refused before impressions were scored."""
    reports: Mapping[str, Report]
    figures: Mapping[str, Figure]

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return self.judgement is not None and all(check.holds for check in self.checks)

    @property
    def title(self) -> str:
        """The models that were compared, in words."""
        against = f" against {self.contenders[1].name}" if len(self.contenders) > 1 else ""
        return f"{self.candidate.name}: version {self.candidate.number}{against}"

    def tags(self, data_sha256: str) -> dict[str, str]:
        """Return versions, hashes and the verdict as MLflow's tags."""
        tags = {
            "model_name": self.candidate.name,
            "candidate_version": self.candidate.number,
            "candidate_run": self.candidate.run_id or "",
            "champion_version": self.champion.number if self.champion else "",
            "champion_run": (self.champion.run_id if self.champion else None) or "",
            "data_sha256": data_sha256,
            "verdict": "passed" if self.passed else "refused",
            "refused_by": "; ".join(check.name for check in self.checks if not check.holds),
            **{
                f"{role}_weights_sha256": contender.weights_sha256
                for role, contender in zip(("candidate", "champion"), self.contenders, strict=False)
            },
        }
        if self.champion is None and len(self.contenders) > 1:
            tags["baseline"] = self.contenders[1].name
        return {name: value for name, value in tags.items() if value}

    def values(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "title": self.title,
            "passed": self.passed,
            "checks": [check.values() for check in self.checks],
            "judgement": self.judgement.to_dict() if self.judgement else None,
            "models": {name: report.to_dict() for name, report in self.reports.items()},
        }


def reports_of(
    champion: pa.Table, candidate: pa.Table, names: tuple[str, str], metrics: MetricsConfig
) -> tuple[dict[str, Report], dict[str, Figure]]:
    """Return the report and the figures of each model's predictions."""
    tables = dict(zip(names, (champion, candidate), strict=True))
    columns = PredictionColumns()
    reports = {name: evaluate_predictions(table, columns, metrics, name=name) for name, table in tables.items()}
    return reports, figures_of(tables, reports, columns, metrics.calibration_bins)


def identity(settings: Mapping[str, Any], decided: Mapping[str, str]) -> str:
    """Return the hash of what a decision depends on, so that a killed job resumes its run in MLflow."""
    return sha256_of_json([dict(settings), dict(decided)])[:16]


def show(decision: Decision, console: Console) -> None:
    """Print the checks of the gate."""
    notes = []
    judgement = decision.judgement
    if judgement is not None:
        notes.append(f"{judgement.candidate.rows:,} held-out impressions of {judgement.candidate.users:,} users.")
    print_report(console, [_grid(decision)], notes)


def keep(decision: Decision, out: Path) -> None:
    """Write report.md, the plots and, last, metrics.json to the folder, and log them in the open MLflow run."""
    differences = {decision.title: decision.judgement.differences} if decision.judgement else {}
    tables = [_grid(decision), *(grids(decision.reports, differences) if decision.reports else [])]
    text = markdown(tables, [], list(decision.figures))
    for name, figure in decision.figures.items():
        figure.savefig(out / name)
        mlflow.log_artifact(str(out / name), "figures")
    write_text(out / "report.md", text)
    write_json(out / run_folder.METRICS, decision.values())
    mlflow.log_text(text, "report.md")
    mlflow.log_dict(decision.values(), "decision.json")
    if decision.judgement is not None:
        log_once(decision.judgement.numbers())
    mlflow.set_tag(MOVED, "false")


def _grid(decision: Decision) -> tuple[str, list[str], list[list[str]]]:
    header = ["", "Champion", "Candidate", "Found", "Must be", ""]
    rows = [
        [check.name, check.champion, check.candidate, check.number, check.bound, "holds" if check.holds else "FAILS"]
        for check in decision.checks
    ]
    return decision.title, header, rows
