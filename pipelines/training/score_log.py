"""Predictions of a trained model on a log it was not trained on, or was: with its own columns and vocabulary."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_config import SPLITS, DataConfig
from feature_store.errors import DataError
from feature_store.files import replacing
from feature_store.logs.preparation import prepare
from feature_store.vocabulary.vocabularies import Vocabularies
from pipelines.models.artifact import ModelCard, TrainedModel, load_model
from pipelines.training.batches import feature_space
from pipelines.training.data import LogData
from pipelines.training.fit import TrainingConfig, predict
from rm_rec.config.base import Settings


def score_log(
    model: Path,
    config: DataConfig,
    split: str | None,
    out: Path,
    report: Callable[[str], None],
    allowed_packages: Collection[str] = (),
) -> Path:
    """Score one split of a log (None: every impression), as `out/predictions.parquet`; the prepared log lies beside it.

    Columns and impressions are those that the model was trained on, unless the config names others. Raises DataError
    where the log does not give the model's features or the split is empty.
    """
    if split is not None and split not in SPLITS:
        raise DataError(f"split {split!r}: must be one of {', '.join(SPLITS)}, or null for all")
    trained = load_model(model, allowed_packages)
    out.mkdir(parents=True, exist_ok=True)
    scored = score(trained, str(model), described(config, trained.card), split, out / "prepared", report)
    path = out / "predictions.parquet"
    with replacing(path) as partial:
        pq.write_table(scored, partial, compression="zstd")
    return path


def score(
    trained: TrainedModel,
    name: str,
    config: DataConfig,
    split: str | None,
    folder: Path,
    report: Callable[[str], None],
    drawn_from: Vocabularies | None = None,
) -> pa.Table:
    """Return a model's predictions on one split of a log that the config describes in full, prepared in a folder.

    `name` is what errors call the model; sampled negatives are items of `drawn_from`, where it is given, rather than
    of the model's own vocabulary. Raises DataError as `score_log`.
    """
    prepared = prepare(config, folder, notify=report, for_training=False)
    data = LogData(config, prepared, trained.vocabularies, drawn_from)
    found = {*config.columns.event_features, *config.columns.item_features}
    known = {*trained.card.columns.event_features, *trained.card.columns.item_features}
    if found != known or feature_space(config.columns, config.impressions, data.vocabularies) != trained.card.features:
        raise DataError(
            f"{name}: the model reads other features than data.columns and data.impressions name: leave both out"
        )
    wanted = [index for index, label in enumerate(SPLITS) if split in (None, label)]
    tables = [predict(trained.model, data, index, TrainingConfig()) for index in wanted if data.num_impressions(index)]
    if not tables:
        raise DataError(f"{config.log}: no impression falls in the {split} split; choose another with --split")
    return pa.concat_tables(tables)


def described(config: DataConfig, card: ModelCard) -> DataConfig:
    """Fill in, from a model's card, what a config does not say of its log."""
    columns = card.columns.model_copy(update=_said(config.columns))
    impressions = config.impressions
    if impressions.kind == "next_event" and _said(impressions).keys() <= {"kind"}:  # as where nothing is said
        impressions = card.impressions
    elif impressions.kind == card.impressions.kind:
        impressions = card.impressions.model_copy(update=_said(impressions))
    return config.model_copy(update={"columns": columns, "impressions": impressions})


def _said(block: Settings) -> dict[str, Any]:
    """Return the keys of a block that the user gave, also where they equal the defaults."""
    return {name: getattr(block, name) for name in block.model_fields_set}
