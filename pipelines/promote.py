"""Make the candidate the champion if it is better on held-out impressions, beyond chance; or take the last one back.

python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories
python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories --dry-run
python -m pipelines.promote --name clicks --rollback

Exit codes: 0 moved, or the champion already; 3 refused, with the numbers that missed; 2 bad input.
"""

from pathlib import Path
from typing import Literal, Self

import mlflow
import torch
from pydantic import Field, model_validator
from rich.console import Console

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from pipelines.cli import load_settings, resolved
from pipelines.cli.job import DONE, GateRefused, result_console, run_job, this_python
from pipelines.errors import RegistryError
from pipelines.evaluation.evaluated import MetricsConfig
from pipelines.evaluation.predictions import PredictionColumns, numbers, user_codes
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
from pipelines.runs.tracking import TrackingConfig, tracked_run
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.promote"


class Promote(Settings):
    """Which model, on what evidence, and what it has to reach."""

    name: str = Field(min_length=1)
    """Of the registered model whose aliases these are."""
    log: str | None = None
    """The log that the candidate was trained on, wherever it lies now: its held-out impressions decide."""
    impressions: str | None = None
    """The impressions, where they are files of their own; those of the candidate's training run unless given."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages of other people whose code the models may use, as a `kind` such as acme.machines:Fading names it."""
    split: Literal["validation", "test"] = "test"
    """Which held-out impressions, as the candidate's training run split them."""
    min_gain: float = Field(0.0, ge=-1.0, le=1.0)
    """The lower end of the AUC gain's 95 % interval, over users, must be above this. Below 0 it lets a candidate pass
    that loses no more than so much."""
    max_calibration_loss: float = Field(0.005, ge=0.0, le=1.0)
    """The candidate's expected calibration error may be larger than the champion's by at most this."""
    max_ratio_loss: float = Field(0.02, ge=0.0)
    """The candidate's predicted over actual clicks may be further from 1 than the champion's by at most this."""
    memories: str | None = None
    """The store that will serve the candidate: it must have memories of the candidate's space."""
    allow_unbuilt: bool = False
    """Promote a candidate without memories; build them before anything follows the alias."""
    allow_other_log: bool = False
    """Compare models that were trained on another log, or split. Safe where the log has only grown since."""
    allow_rolled_back: bool = False
    """Promote a version again that was rolled back before."""
    baseline: str | None = None
    """Where there is no champion yet: a model's folder, or that of its run, to beat instead of a mean_pool model that
    is trained for it."""
    rollback: bool = False
    """Make the version before the champion again; nothing is measured."""
    dry_run: bool = False
    """Decide and say so, but move nothing."""
    resamples: int = Field(1000, ge=100, le=100_000)
    """Times the users are drawn anew for the interval, the same draws for both models."""
    seed: int = Field(0, ge=0)
    """Seed of the draws."""
    calibration_bins: int = Field(20, ge=1)
    """Bins of equal numbers of impressions for the calibration error."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 leaves PyTorch's own choice."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow's address."""
    experiment: str = Field("promotions", min_length=1)
    """Where MLflow keeps each decision with its evidence."""
    out: str = "runs/promote"
    """Folder for report.md, metrics.json, the plots, both models' predictions and the prepared log."""

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.log is None and not self.rollback:
            raise ValueError("log: required, but for --rollback; give the log that the candidate was trained on")
        return self

    @property
    def bounds(self) -> Bounds:
        """What the gate asks."""
        return Bounds(
            min_gain=self.min_gain,
            max_calibration_loss=self.max_calibration_loss,
            max_ratio_loss=self.max_ratio_loss,
            resamples=self.resamples,
            seed=self.seed,
            calibration_bins=self.calibration_bins,
        )


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        Promote,
        argv,
        prog=PROG,
        description="Make the candidate the champion if it is better on held-out impressions, or take the last back.",
        examples=(
            f"{PROG} --name clicks --log logs/all.parquet --memories memories",
            f"{PROG} --name clicks --log logs/all.parquet --memories memories --dry-run",
            f"{PROG} --name clicks --rollback",
        ),
    )
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
    known = decision.tags(fingerprint)
    tracking = TrackingConfig(uri=settings.tracking_uri, experiment=settings.experiment)
    out, asked = Path(settings.out), resolved(settings)
    with tracked_run(tracking, out, asked, {"decision": identity(asked, known)}) as run_id:
        mlflow.set_tags(known)
        keep(decision, out)
        if not settings.dry_run:
            verdict = {GATE: known["verdict"], GATE_RUN: run_id}
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
        console.print(f"Back again: {this_python()} -m pipelines.promote --name {settings.name} --rollback")
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
    """Check what can be known before, then score both models; what is refused before is not scored."""
    rival = None
    if champion is not None:
        rival = of_version(registry, champion, settings.allow_package)
    elif settings.baseline is not None:
        rival = of_folder(settings.baseline, settings.tracking_uri, settings.allow_package)
    models = (contender,) if rival is None else (contender, rival)
    known = {model.weights for model in models}
    checks = (
        *not_rolled_back(candidate, allowed=settings.allow_rolled_back),
        memories_built(contender, candidate, settings.memories, data.log, allowed=settings.allow_unbuilt),
        *(unseen(model, data, known, allowed=settings.allow_other_log) for model in models),
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
        settings.bounds,
    )
    metrics = MetricsConfig(calibration_bins=settings.calibration_bins, seed=settings.seed)
    reports, figures = reports_of(before, after, (rival.name, contender.name), metrics)
    return Decision(candidate, champion, (contender, rival), (*checks, *judgement.checks), judgement, reports, figures)


def _already(settings: Promote, registry: Registry, champion: Version, console: Console) -> int:
    """Say so, and end what a killed job may have left open."""
    if not settings.dry_run:
        registry.settle()
        registry.finish_run(champion)
    console.print(f"models:/{settings.name}@{CHAMPION} is version {champion.number}, the candidate, already.")
    return DONE


def _roll_back(settings: Promote, registry: Registry, console: Console) -> int:
    champion = registry.at(CHAMPION)
    if champion is None:
        raise RegistryError(f"{settings.name}: no version has the alias {CHAMPION}, so there is nothing to roll back")
    if registry.half_rolled_back():
        if not settings.dry_run:
            registry.settle()
        console.print(
            f"A roll-back was broken off: models:/{settings.name}@{CHAMPION} is version {champion.number}, as it asked."
        )
        return DONE
    target = registry.before(champion)
    if not settings.dry_run:
        tracking = TrackingConfig(uri=settings.tracking_uri, experiment=settings.experiment)
        decision = {"decision": f"roll back {champion.number}, {moment()}"}
        with tracked_run(tracking, Path(settings.out), resolved(settings), decision):
            registry.roll_back(champion, target)
            moved = {"rolled_back_from": champion.number, "rolled_back_to": target.number}
            mlflow.set_tags({"model_name": settings.name, "verdict": "rolled back", MOVED: "true", **moved})
    verb = "would be" if settings.dry_run else "is"
    console.print(f"models:/{settings.name}@{CHAMPION} {verb} version {target.number} (before: {champion.number}).")
    space = target.tags.get(SPACE, "none")
    if space != "none":
        console.print(f"It reads memories of space {space}.")
    return DONE


if __name__ == "__main__":
    run_job(main)
