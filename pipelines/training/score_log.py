"""Predictions of a trained model on any log with the same columns, by the model's own vocabulary."""

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
from pipelines.errors import ModelError, SettingsError
from pipelines.models.artifact import ModelCard, TrainedModel, load_model
from pipelines.training.batches import feature_space
from pipelines.training.data import LogData
from pipelines.training.fit import predict
from pipelines.training.settings import TrainingConfig
from rm_rec.config.base import Settings


def score_log(
    model: Path,
    config: DataConfig,
    split: str | None,
    out: Path,
    notify: Callable[[str], None],
    allowed_packages: Collection[str] = (),
) -> Path:
    """Score one split of a log (None: every impression); write and return `out/predictions.parquet`.

    Columns and impressions are those that the model was trained on, unless the config names others. The log is prepared
    in `out/prepared`.

    Raises:
        SettingsError: there is no such split.
        ModelError: the model cannot be read, or reads other features than the log gives.
        DataError: the log cannot be read, or the split is empty.
    """
    if split is not None and split not in SPLITS:
        raise SettingsError(f"split {split!r}: must be one of {', '.join(SPLITS)}, or null for all")
    trained = load_model(model, allowed_packages)
    out.mkdir(parents=True, exist_ok=True)
    scored = score(trained, str(model), described(config, trained.card), split, out / "prepared", notify)
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
    notify: Callable[[str], None],
    negatives_of: Vocabularies | None = None,
) -> pa.Table:
    """Return a model's predictions on one split of a log that the config describes in full; prepare it in `folder`.

    `name` is the model's name in errors. Negatives are sampled from the vocabulary `negatives_of`, by default the
    model's own. Raises ModelError and DataError as `score_log`.
    """
    prepared = prepare(config, folder, notify=notify, for_training=False)
    data = LogData(config, prepared, trained.vocabularies, negatives_of)
    if not reads_same_features(trained, config):
        raise ModelError(
            f"{name}: the model reads other features than data.columns and data.impressions name: leave both out"
        )
    indices = [index for index, label in enumerate(SPLITS) if split in (None, label)]
    tables = [predict(trained.model, data, index, TrainingConfig()) for index in indices if data.num_impressions(index)]
    if not tables:
        raise DataError(f"{config.log}: no impression falls in the {split} split; choose another with --split")
    return pa.concat_tables(tables)


def reads_same_features(trained: TrainedModel, config: DataConfig) -> bool:
    """Return whether a config names the features that a model reads."""
    columns, own = config.columns, trained.card.columns
    names = {*columns.event_features, *columns.item_features}
    # Names first: the model has no vocabulary for a feature that it does not read.
    return (
        names == {*own.event_features, *own.item_features}
        and feature_space(columns, config.impressions, trained.vocabularies) == trained.card.features
    )


def described(config: DataConfig, card: ModelCard) -> DataConfig:
    """Return the config with the columns and impressions of a model's card where the user set none."""
    columns = card.columns.model_copy(update=_set_by_user(config.columns))
    impressions = config.impressions
    if impressions.kind == "next_event" and _set_by_user(impressions).keys() <= {"kind"}:  # the default
        impressions = card.impressions
    elif impressions.kind == card.impressions.kind:
        impressions = card.impressions.model_copy(update=_set_by_user(impressions))
    return config.model_copy(update={"columns": columns, "impressions": impressions})


def _set_by_user(block: Settings) -> dict[str, Any]:
    """Return the keys of a block that the user set, also if they equal the defaults."""
    return {name: getattr(block, name) for name in block.model_fields_set}
