"""The work of `pipelines.retention`, imported once its settings are read."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from feature_store.data_config import SPLITS, DataConfig
from feature_store.errors import DataError
from feature_store.logs.prepared_log import PreparedLog
from pipelines.cli.job import DONE, result_console
from pipelines.evaluation.retention import conditions, measure
from pipelines.evaluation.retention_results import RETENTION, keep, print_retention, read_comparable, read_retention
from pipelines.evaluation.settings import DECIDING_AGE
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.retention import MeasureRetention
from pipelines.runs.run_folder import finished_run, held
from pipelines.runs.tracking import reopened_run
from pipelines.training.data import TEST, LogData
from pipelines.training.fit import device_of
from pipelines.training.settings import PREDICTED_COLUMNS


def run(settings: MeasureRetention) -> int:
    """Measure the run, unless it is measured already; return the exit code."""
    out = Path(settings.run)
    run_settings, metrics = finished_run(out)
    with held(out):
        return _measure(settings, out, run_settings, metrics["fingerprint"])


def _measure(settings: MeasureRetention, out: Path, run_settings: Mapping[str, Any], fingerprint: str) -> int:
    console = result_console()
    trained = load_model(out / "model", settings.allow_package)
    data = _data_of(run_settings, trained, out / "prepared")
    predictions = pq.read_table(out / "predictions.parquet", filters=[("split", "=", SPLITS[TEST])])
    _check_age_column(settings.retention.age_column, predictions)
    expected = conditions(settings.retention, data, trained.model.config.segment_length)
    other = None
    if settings.compare_with is not None:
        other = read_comparable(settings.compare_with, out, expected)
    ours = read_retention(out)
    if ours is not None and (ours.fingerprint, ours.conditions, ours.compared_with) == (
        fingerprint,
        expected,
        settings.compare_with,
    ):
        console.print(f"{out / RETENTION} is of this run and these settings; nothing to do.")
    else:
        device = device_of(settings.device, "device")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        tracked = settings.tracking_uri is not None
        with reopened_run(settings.tracking_uri, out) if settings.tracking_uri is not None else nullcontext():
            ours = measure(
                settings.retention,
                settings.resamples,
                data,
                trained.model.to(device),
                predictions,
                fingerprint=fingerprint,
                compared_with=settings.compare_with,
            )
            keep(out, ours, other, tracked=tracked)
    print_retention(console, out, ours, other)
    console.print(f"Numbers {out / RETENTION}; figures retention_*.png beside it")
    return DONE


def _data_of(settings: Mapping[str, Any], trained: TrainedModel, prepared: Path) -> LogData:
    """Open a run's prepared log as it was trained on; the log itself is not read."""
    blocks: dict[str, Any] = {"log": str(prepared)}
    for key, value in settings.items():
        block, _, rest = key.partition(".")
        name, _, leaf = rest.partition(".")
        if block != "data" or name in ("columns", "impressions"):  # the model's card has these
            continue
        if leaf:
            blocks.setdefault(name, {})[leaf] = value
        else:
            blocks[name] = value
    card = trained.card
    config = DataConfig.model_validate(blocks | {"columns": card.columns, "impressions": card.impressions})
    return LogData(config, PreparedLog.open(prepared), trained.vocabularies)


def _check_age_column(name: str, predictions: pa.Table) -> None:
    if name != DECIDING_AGE and name not in predictions.column_names:
        carried = [column for column in predictions.column_names if column not in PREDICTED_COLUMNS]
        raise DataError(
            f"retention.age_column: {name!r} is not carried; predictions.parquet has {', '.join(carried) or 'none'} "
            "(data.impressions.carry of train_ctr)"
        )
