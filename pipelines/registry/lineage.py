"""A model's origin and results, as MLflow's tags, metrics and descriptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.models.artifact import ModelCard
from pipelines.registry.model_registry import SPACE
from pipelines.runs.tracking import code_version
from rm_rec.evaluation.report import Report

_HEADER = ("", "impressions", "AUC", "95 % interval", "AUC within users", "logloss")


@dataclass(frozen=True)
class Lineage:
    """What MLflow stores beside a model's files."""

    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    note: str
    """Description in Markdown, for the pages of the run, the model and its version."""

    @classmethod
    def of(cls, card: ModelCard, metrics: Mapping[str, Any], tags: Mapping[str, str], log: str) -> "Lineage":
        """Make it from a run's `metrics` (metrics.json), the `tags` of its config and log, and the path of the log."""
        values = held_out(metrics)
        scores = {name: f"{value:.4f}" for name, value in values.items() if name in ("validation_auc", "test_auc")}
        all_tags: dict[str, str] = {
            **scores,
            SPACE: card.memory_space or "none",
            "code_version": code_version(),
            **tags,
            "weights_sha256": card.weights_sha256,
        }
        return cls(all_tags, values, _note(metrics, card, log))


def headline(report: Report) -> dict[str, float | None]:
    """Return the metrics of one split that are in metrics.json."""
    overall = report.overall
    return {
        "auc": overall.auc.value,
        "auc_low": overall.auc.low,
        "auc_high": overall.auc.high,
        "grouped_auc": overall.grouped_auc_by_impressions.value,
        "grouped_auc_by_user": overall.grouped_auc_by_user.value,
        "logloss": overall.logloss.value,
        "normalised_entropy": overall.normalised_entropy.value,
        "calibration_error": overall.calibration_error,
        "impressions": overall.rows,
        "best_possible_auc": report.best_possible_auc,
    }


def held_out(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the defined metrics of the held-out splits, by their names in MLflow.

    >>> held_out({"validation": {"auc": 0.75}, "test": {"auc": 0.5, "best_possible_auc": None}, "best_epoch": 3})
    {'validation_auc': 0.75, 'test_auc': 0.5}
    """
    splits = ("validation", "test")
    flat = {f"{split}_{key}": value for split in splits for key, value in metrics[split].items()}
    return {name: value for name, value in flat.items() if value is not None}


def _note(metrics: Mapping[str, Any], card: ModelCard, log: str) -> str:
    """Describe a run: held-out metrics, the best possible AUC if it is known, and how to serve the model."""
    test, best = metrics["test"], metrics["test"]["best_possible_auc"]  # the best is only known on synthetic logs
    header = [*_HEADER] if best is None else [*_HEADER, "best possible AUC"]
    rows = [_row(name, metrics[name], best is not None) for name in ("validation", "test")]
    lines = [
        f"**Test AUC {_number(test['auc'])}**{_between(test, ', 95 % interval ')}; chance is 0.5"
        + ("." if best is None else f", the best possible {best:.4f}."),
        "",
        _line(header),
        "|" + " --- |" * len(header),
        *map(_line, rows),
        "",
        f"Trained on `{log}`, best epoch {metrics['best_epoch']} of {len(metrics['epochs'])}, "
        f"{metrics['parameters']:,} parameters.",
        *_serving(card.memory_space, ",".join(card.packages)),
    ]
    return "\n".join(lines)


def _serving(space: str | None, packages: str) -> list[str]:
    if space is None:
        return [
            "",
            "Its window is the whole history: it is a baseline, which has no memories to be served from.",
        ]
    needs = [f"It needs the code of {packages}, which must be installed and allowed.", ""] if packages else []
    option, variable = (f" --allow-package {packages}", f" RM_REC_ALLOW_PACKAGES={packages}") if packages else ("", "")
    return [
        "",
        *needs,
        f"It reads memories of space `{space}`. Build them, then serve it (`MODEL` is `models:/NAME/VERSION`):",
        "",
        "```sh",
        f"python -m pipelines.build_memory --model MODEL --memories memories --log LOG{option}",
        f"RM_REC_MEMORIES=memories{variable} mlflow models serve --model-uri MODEL --env-manager local --port 5001",
        "```",
    ]


def _row(name: str, metrics: Mapping[str, Any], best: bool) -> list[str]:
    cells = [name, f"{metrics['impressions']:,}", _number(metrics["auc"]), _between(metrics, "") or "-"]
    cells += [_number(metrics["grouped_auc"]), _number(metrics["logloss"])]
    return [*cells, _number(metrics["best_possible_auc"])] if best else cells


def _between(metrics: Mapping[str, Any], before: str) -> str:
    low, high = metrics["auc_low"], metrics["auc_high"]
    return "" if low is None else f"{before}{low:.4f} to {high:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(cells: list[str]) -> str:
    # MLflow's pages show cells without a gap between them.
    return "| " + " &emsp; | ".join(cells) + " |"
