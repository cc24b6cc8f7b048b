"""The work of `pipelines.promote`, imported once its settings are read."""

from pathlib import Path
from typing import Any

import mlflow
import torch
from rich.console import Console

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from feature_store.stores import public_address
from pipelines.cli import resolved
from pipelines.cli.job import DONE, GateRefused, result_console, this_python
from pipelines.errors import RegistryError
from pipelines.evaluation.predictions import numbers, user_codes
from pipelines.evaluation.settings import MetricsConfig, PredictionColumns
from pipelines.promote import Promote
from pipelines.promotion.checks import memories_built, not_rolled_back, unseen
from pipelines.promotion.contenders import Contender, of_folder, of_version, score_both, train_mean_pool
from pipelines.promotion.gate import Bounds, judge
from pipelines.promotion.record import Decision, identity, keep, reports_of, show
from pipelines.registry.model_registry import (
    CANDIDATE,
    CHAMPION,
    GATE,
    GATE_RUN,
    MOVED,
    SPACE,
    Registry,
    Version,
    moment,
)
from pipelines.runs import run_folder
from pipelines.runs.settings import TrackingConfig
from pipelines.runs.tracking import tracked_run


def run(settings: Promote) -> int:
    """Decide about the candidate, or roll back; return the exit code. Raises GateRefused."""
    console = result_console()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    registry = Registry(settings.tracking_uri, settings.name)
    out = Path(settings.out)
    with run_folder.claimed(out, {}):
        if settings.rollback:
            return _roll_back(settings, registry, console)
        candidate, champion = registry.at(CANDIDATE), registry.at(CHAMPION)
        if candidate is None:
            raise RegistryError(
                f"{settings.name}: no version has the alias {CANDIDATE}; train one with "
                f"train_ctr --tracking.register_as {settings.name}"
            )
        if champion is not None and champion.number == candidate.number:
            return _already(settings, registry, champion, console)
        return _promote(settings, registry, candidate, champion, console)


def _promote(
    settings: Promote, registry: Registry, candidate: Version, champion: Version | None, console: Console
) -> int:
    assert settings.log is not None
    contender = of_version(registry, candidate, settings.allow_package)
    data = contender.data_on(settings.log, settings.impressions)
    decision = _decide(settings, registry, candidate, champion, contender, data, console)
    show(decision, console)
    fingerprint = log_fingerprint(data)
    tags = decision.tags(fingerprint)
    tracking = TrackingConfig(uri=settings.tracking_uri, experiment=settings.experiment)
    out, values = Path(settings.out), _without_password(settings)
    with tracked_run(tracking, out, values, {"decision": identity(values, tags)}) as run_id:
        mlflow.set_tags(tags)
        keep(decision, out)
        if not settings.dry_run:
            verdict = {GATE: tags["verdict"], GATE_RUN: run_id}
            if decision.passed:
                registry.promote(candidate, champion, {**verdict, SPACE: contender.trained.card.memory_space or "none"})
                mlflow.set_tag(MOVED, "true")
            else:
                registry.tag(candidate, verdict)
    console.print(f"Evidence: {out / 'report.md'}, and run {run_id} of experiment {settings.experiment} in MLflow.")
    if not decision.passed:
        raise GateRefused("\n".join(str(check) for check in decision.checks if not check.holds))
    before = f"version {champion.number}" if champion else "none"
    verb = "would be" if settings.dry_run else "is"
    console.print(f"\nmodels:/{settings.name}@{CHAMPION} {verb} version {candidate.number} (before: {before}).")
    if not settings.dry_run and champion is not None:
        console.print(f"To roll back: {this_python()} -m pipelines.promote --name {settings.name} --rollback")
    return DONE


def _decide(
    settings: Promote,
    registry: Registry,
    candidate: Version,
    champion: Version | None,
    contender: Contender,
    data: DataConfig,
    console: Console,
) -> Decision:
    """Check what needs no predictions, then score both models; a candidate that fails a check is not scored."""
    rival = None
    if champion is not None:
        rival = of_version(registry, champion, settings.allow_package)
    elif settings.baseline is not None:
        rival = of_folder(settings.baseline, settings.tracking_uri, settings.allow_package)
    models = (contender,) if rival is None else (contender, rival)
    weights = {model.weights_sha256 for model in models}
    checks = (
        *not_rolled_back(candidate, allowed=settings.allow_rolled_back),
        memories_built(contender, candidate, settings.memories, data.log, allowed=settings.allow_unbuilt),
        *(unseen(model, data, weights, allowed=settings.allow_other_log) for model in models),
    )
    if not all(check.holds for check in checks):
        return Decision(candidate, champion, models, checks, None, {}, {})
    out = Path(settings.out)
    if rival is None:
        rival = train_mean_pool(contender, data, out, settings.tracking_uri, console.print, settings.allow_package)
    before, after = score_both(rival, contender, data, settings.split, out, console.print)
    columns = PredictionColumns()
    judgement = judge(
        numbers(before, columns.label, rival.name),
        numbers(before, columns.prediction, rival.name),
        numbers(after, columns.prediction, contender.name),
        user_codes(before, columns.user, rival.name),
        _bounds(settings),
    )
    metrics = MetricsConfig(calibration_bins=settings.calibration_bins, seed=settings.seed)
    reports, figures = reports_of(before, after, (rival.name, contender.name), metrics)
    return Decision(candidate, champion, (contender, rival), (*checks, *judgement.checks), judgement, reports, figures)


def _bounds(settings: Promote) -> Bounds:
    return Bounds(
        min_gain=settings.min_gain,
        max_calibration_loss=settings.max_calibration_loss,
        max_ratio_loss=settings.max_ratio_loss,
        resamples=settings.resamples,
        seed=settings.seed,
        calibration_bins=settings.calibration_bins,
    )


def _without_password(settings: Promote) -> dict[str, Any]:
    """Return the settings for MLflow, without the password that a store's address may contain."""
    shown = settings.memories and public_address(settings.memories)
    return resolved(settings) | {"memories": shown}


def _already(settings: Promote, registry: Registry, champion: Version, console: Console) -> int:
    """Print that the candidate is the champion, and complete a move that was interrupted."""
    if not settings.dry_run:
        registry.settle()
        registry.finish_run(champion)
    console.print(f"models:/{settings.name}@{CHAMPION} already is version {champion.number}, the candidate.")
    return DONE


def _roll_back(settings: Promote, registry: Registry, console: Console) -> int:
    champion = registry.at(CHAMPION)
    if champion is None:
        raise RegistryError(f"{settings.name}: no version has the alias {CHAMPION}, so there is nothing to roll back")
    if registry.half_rolled_back():
        if not settings.dry_run:
            registry.settle()
        console.print(
            f"Completed an interrupted roll-back: models:/{settings.name}@{CHAMPION} is version {champion.number}."
        )
        return DONE
    target = registry.before(champion)
    if not settings.dry_run:
        tracking = TrackingConfig(uri=settings.tracking_uri, experiment=settings.experiment)
        decision = {"decision": f"roll back {champion.number}, {moment()}"}
        with tracked_run(tracking, Path(settings.out), _without_password(settings), decision):
            registry.roll_back(champion, target)
            moved = {"rolled_back_from": champion.number, "rolled_back_to": target.number}
            mlflow.set_tags({"model_name": settings.name, "verdict": "rolled back", MOVED: "true", **moved})
    verb = "would be" if settings.dry_run else "is"
    console.print(f"models:/{settings.name}@{CHAMPION} {verb} version {target.number} (before: {champion.number}).")
    space = target.tags.get(SPACE, "none")
    if space != "none":
        console.print(f"It reads memories of space {space}.")
    return DONE
