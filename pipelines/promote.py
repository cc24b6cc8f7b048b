"""Make the candidate the champion if it is significantly better on held-out impressions, or roll back.

python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories
python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories --dry-run
python -m pipelines.promote --name clicks --rollback

Exit codes: 0 the alias was moved, or the candidate is the champion already; 3 refused, with the numbers that missed
their bounds; 2 bad input.
"""

from pathlib import Path
from typing import Any, Literal, Self

import mlflow
import torch
from pydantic import Field, model_validator
from rich.console import Console

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from feature_store.stores import public_address
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
    """Which model to promote, on what data, and the bounds that it has to meet."""

    name: str = Field(min_length=1)
    """Name of the registered model whose aliases are moved."""
    log: str | None = None
    """Log that the candidate was trained on, by its present path: its held-out impressions decide."""
    impressions: str | None = None
    """Path of the impressions, if they are files of their own; null is the path of the candidate's training run."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the models may run, for a `kind` such as acme.machines:Fading."""
    split: Literal["validation", "test"] = "test"
    """Split to compare on, as the candidate's training run split the impressions."""
    min_gain: float = Field(0.0, ge=-1.0, le=1.0)
    """Bound of the AUC gain: the lower end of its 95 % interval over users must be above this. A negative bound accepts
    a small loss."""
    max_calibration_loss: float = Field(0.005, ge=0.0, le=1.0)
    """Maximum by which the candidate's expected calibration error may exceed the champion's."""
    max_ratio_loss: float = Field(0.02, ge=0.0)
    """Maximum by which the candidate's |predicted / actual clicks - 1| may exceed the champion's."""
    memories: str | None = None
    """Store that will serve the candidate: it must have memories of the candidate's memory space."""
    allow_unbuilt: bool = False
    """Promote a candidate without memories; build them before anything is served from the alias."""
    allow_other_log: bool = False
    """Compare models that were trained on another log or split. Safe only if the log has merely grown since."""
    allow_rolled_back: bool = False
    """Promote a version although it was rolled back before."""
    baseline: str | None = None
    """Model to beat if there is no champion yet: its folder or that of its run. By default a mean_pool model is trained
    for this."""
    rollback: bool = False
    """Make the previous champion the champion again; nothing is measured."""
    dry_run: bool = False
    """Decide and print the decision, but move no alias."""
    resamples: int = Field(1000, ge=100, le=100_000)
    """Number of bootstrap resamples of users for the interval; both models get the same resamples."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    calibration_bins: int = Field(20, ge=1)
    """Number of bins, of equal numbers of impressions each, for the calibration error."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI."""
    experiment: str = Field("promotions", min_length=1)
    """Name of the MLflow experiment in which each decision is logged with its evidence."""
    out: str = "runs/promote"
    """Output folder for report.md, metrics.json, the plots, both models' predictions and the prepared log."""

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.log is None and not self.rollback:
            raise ValueError("log: required, except with --rollback; give the log that the candidate was trained on")
        return self

    @property
    def bounds(self) -> Bounds:
        """The bounds of the gate."""
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
        description="Make the candidate the champion if it is better on held-out impressions, or roll back.",
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
        settings.bounds,
    )
    metrics = MetricsConfig(calibration_bins=settings.calibration_bins, seed=settings.seed)
    reports, figures = reports_of(before, after, (rival.name, contender.name), metrics)
    return Decision(candidate, champion, (contender, rival), (*checks, *judgement.checks), judgement, reports, figures)


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


if __name__ == "__main__":
    run_job(main)
