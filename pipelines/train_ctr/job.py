"""The work of `pipelines.train_ctr`, imported once its settings are read."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from feature_store.data_config import SPLITS, NextEvent
from feature_store.errors import DataError
from feature_store.files import replacing, sha256_of_json, write_json
from pipelines.cli import resolved
from pipelines.cli.job import DONE, result_console, this_python
from pipelines.evaluation.evaluated import evaluate_predictions, figures_of
from pipelines.evaluation.figures.predictions import training_curves
from pipelines.evaluation.settings import PredictionColumns
from pipelines.evaluation.tables import grids, markdown, print_training
from pipelines.models.artifact import TrainedModel, save_model
from pipelines.registry.lineage import headline, held_out
from pipelines.registry.registration import register
from pipelines.runs import run_folder, tracking
from pipelines.train_ctr import TrainCtr
from pipelines.training.batches import feature_space
from pipelines.training.checkpoint import Epoch, FitState
from pipelines.training.data import TEST, VALIDATION, LogData
from pipelines.training.fine_tune import data_as_before, freeze_writer, load_start
from pipelines.training.fit import Fit, Learner, device_of, predict
from rm_rec.config.outside import outside_packages
from rm_rec.model import ClickModel
from rm_rec.resolved import resolved_config


def run(settings: TrainCtr) -> int:
    """Do one training run in its folder, or resume it; return the exit code."""
    console = result_console()
    model = resolved_config(settings.model, settings.allow_package)
    # With the packages of settings that are Python objects: reading the saved model needs them to be allowed.
    allowed = tuple(sorted({*settings.allow_package, *outside_packages(model)}))
    settings = settings.model_copy(update={"model": model, "allow_package": allowed})
    out = Path(settings.out)
    device = device_of(settings.training.device, "training.device")
    with run_folder.claimed(out, resolved(settings)):
        return _train(settings, out, device, console)


def _train(settings: TrainCtr, out: Path, device: torch.device, console: Console) -> int:
    start = None
    if settings.start_from is not None:
        start = load_start(settings.start_from, settings.tracking.uri, settings.model, settings.allow_package)
        settings = settings.model_copy(
            update={"model": start.card.model, "data": data_as_before(settings.data, start, settings.start_from)}
        )
    vocabularies = start.vocabularies if start is not None else None
    data = LogData.prepare(settings.data, out / "prepared", notify=console.print, vocabularies=vocabularies)
    _check_held_out(settings, data)
    fingerprint = fingerprint_of(settings, data.prepared.manifest.fingerprint, start)
    tags = {
        "data_sha256": data.prepared.manifest.fingerprint,
        "config_sha256": sha256_of_json(run_folder.deciding(resolved(settings))),
        "fingerprint": fingerprint,
        **({} if start is None else {"started_from_sha256": start.card.weights_sha256}),
    }
    if settings.training.threads:
        torch.set_num_threads(settings.training.threads)
    finished = run_folder.read_metrics(out, fingerprint)
    if finished is not None:
        console.print(f"{out} holds this very run, finished; nothing to do. Delete the folder to train anew.")
        print_training(console, finished)
        return DONE

    torch.manual_seed(settings.training.seed)
    features = feature_space(settings.data.columns, settings.data.impressions, data.vocabularies)
    model = ClickModel(settings.model, features)
    rehearsal = settings.rehearsal
    if start is not None:
        model.load_state_dict(start.model.state_dict())
        if settings.freeze_writer:
            freeze_writer(model, str(settings.start_from))
            rehearsal = None  # it would train the frozen weights
    learner = Learner(model, rehearsal).to(device)
    fit = Fit(learner, data, settings.optimizer, settings.training, out / "checkpoint", fingerprint)
    if fit.resume():
        console.print(f"resuming {out} after epoch {len(fit.state.epochs)}, batch {fit.state.batches_done}")
    manifest = data.prepared.manifest
    with tracking.tracked_run(settings.tracking, out, resolved(settings), tags):
        tracking.log_data_set(Path(settings.data.log).stem, manifest.fingerprint, {"events": manifest.events})
        for epoch in fit.state.epochs:  # the run may have been killed before it logged an epoch
            _track_epoch(epoch)
        state = fit.run(lambda epoch: _report_epoch(console, epoch))
        metrics = _finish(settings, data, model, state, fingerprint)
        uri = register(
            out / "model", settings.tracking.register_as, settings.data, metrics, tags, settings.allow_package
        )
    write_json(out / run_folder.METRICS, metrics)
    print_training(console, metrics)
    console.print(f"\nModel       {out / 'model'}" + (f", registered as {uri} (alias candidate)" if uri else ""))
    console.print(f"Predictions {out / 'predictions.parquet'}")
    if state.best is not None and state.best.number == settings.training.epochs:
        console.print(
            f"The last epoch was the best: more epochs may help (--training.epochs {2 * settings.training.epochs})."
        )
    python = this_python()
    console.print(
        f"\nNext: {python} -m pipelines.evaluate --predictions {out / 'predictions.parquet'} --out {out / 'report'}"
    )
    console.print(f"      {python} -m mlflow ui --backend-store-uri {settings.tracking.uri} --host 127.0.0.1")
    return DONE


def _finish(settings: TrainCtr, data: LogData, model: ClickModel, state: FitState, fingerprint: str) -> dict[str, Any]:
    """Score the held-out impressions with the best weights; write predictions, model and figures."""
    out = Path(settings.out)
    started = time.process_time()
    tables = {split: predict(model, data, split, settings.training) for split in (VALIDATION, TEST)}
    reports = {
        name: evaluate_predictions(tables[split], PredictionColumns(), settings.metrics)
        for name, split in (("validation", VALIDATION), ("test", TEST))
    }
    with replacing(out / "predictions.parquet") as file:
        pq.write_table(pa.concat_tables(tables.values()), file, compression="zstd")
    save_model(out / "model", model, data.vocabularies, settings.data.columns, settings.data.impressions)
    metrics: dict[str, Any] = {name: headline(report) for name, report in reports.items()}
    best = state.best
    assert best is not None
    tracking.log_once(held_out(metrics))
    curves = training_curves(
        [epoch.loss for epoch in state.epochs], [epoch.validation_auc for epoch in state.epochs], best.number
    )
    figures = figures_of(
        {"test": tables[TEST]}, {"test": reports["test"]}, PredictionColumns(), settings.metrics.calibration_bins
    )
    values = {name: report.to_dict() for name, report in reports.items()}
    text = markdown(grids(reports, {}), notes=(), images=())
    tracking.log_report(values, {"training.png": curves, **figures}, text=text)
    return {
        **metrics,
        "best_epoch": best.number,
        "epochs": [epoch.model_dump() for epoch in state.epochs],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "score_seconds": round(time.process_time() - started, 2),
        "fingerprint": fingerprint,
    }


def fingerprint_of(settings: TrainCtr, log: str, start: TrainedModel | None = None) -> str:
    """Return the hash of what a run's result depends on: its settings, log and start, but not their paths.

    `log` is the fingerprint of the log.
    """
    parts: list[Any] = [run_folder.deciding(resolved(settings)), log]
    if start is not None:
        parts += [start.card.weights_sha256, start.card.vocabulary_sha256, settings.freeze_writer]
    return sha256_of_json(parts)


def _check_held_out(settings: TrainCtr, data: LogData) -> None:
    """Raise DataError, before training, if the validation or the test split has no AUC."""
    labelled = not isinstance(settings.data.impressions, NextEvent)
    for split in (VALIDATION, TEST):
        zeros, ones = data.prepared.manifest.split_counts[split]
        name = SPLITS[split]
        if zeros + ones == 0:
            raise DataError(
                f"{settings.data.log}: no impression falls in the {name} split; raise data.split.{name}, or split by "
                "another data.split.kind"
            )
        if labelled and 0 in (zeros, ones):
            raise DataError(
                f"{settings.data.log}: all {zeros + ones:,} labels of the {name} split are {int(zeros == 0)}; AUC "
                f"needs both 0 and 1: raise data.split.{name}, or split by another data.split.kind"
            )


def _report_epoch(console: Console, epoch: Epoch) -> None:
    accuracy = epoch.rehearsal.get("recollection_accuracy")
    recalled = f"recollection {accuracy:.1%}, " if accuracy is not None else ""
    console.print(
        f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation AUC {epoch.validation_auc:.4f}, {recalled}"
        f"{epoch.train_seconds:.0f} s"
    )
    _track_epoch(epoch)


def _track_epoch(epoch: Epoch) -> None:
    # Not called `validation_auc`, which is the metric of the finished model.
    tracking.log_once(
        {"loss": epoch.loss, "epoch_validation_auc": epoch.validation_auc, **epoch.rehearsal}, step=epoch.number
    )
