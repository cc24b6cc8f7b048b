"""A trained model at rest: safetensors, JSON and Arrow in one folder, no pickle, checked by hash when it is read.

model.safetensors  the weights
model.json         settings, features, the log's columns, versions, and the weights' hash
vocabulary/        id -> embedding row, for each feature
"""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from feature_store.errors import DataError
from feature_store.schema import Columns, Impressions, Strict
from feature_store.vocabularies import Vocabularies
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.model import ClickModel

FORMAT = 1
_WEIGHTS, _CARD, _VOCABULARY = "model.safetensors", "model.json", "vocabulary"


class ModelCard(Strict):
    """All that is needed, beside weights and vocabulary, to use a model on a log like the one it was trained on."""

    format: int = FORMAT
    rm_rec: str
    torch: str
    model: ModelConfig
    features: FeatureSpace
    columns: Columns
    impressions: Impressions
    weights_sha256: str


class TrainedModel:
    """A model, the vocabulary it reads ids with, and its card."""

    def __init__(self, model: ClickModel, vocabularies: Vocabularies, card: ModelCard) -> None:
        self.model = model
        self.vocabularies = vocabularies
        self.card = card


def save_model(
    folder: Path, model: ClickModel, vocabularies: Vocabularies, columns: Columns, impressions: Impressions
) -> TrainedModel:
    """Write a model to a folder, replacing what was there at once."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(model.state_dict(), partial / _WEIGHTS)
    vocabularies.save(partial / _VOCABULARY)
    card = ModelCard(
        rm_rec=version("rm-rec"),
        torch=version("torch"),
        model=model.config,
        features=model.features,
        columns=columns,
        impressions=impressions,
        weights_sha256=_sha256(partial / _WEIGHTS),
    )
    (partial / _CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return TrainedModel(model, vocabularies, card)


def load_model(folder: Path) -> TrainedModel:
    """Read a model; raise DataError, naming the file, where one is missing, damaged or of another format."""
    for name in (_WEIGHTS, _CARD, _VOCABULARY):
        if not (folder / name).exists():
            raise DataError(f"{folder} is not a model: it has no {name}; expected a folder that train_ctr wrote")
    try:
        card = ModelCard.model_validate_json((folder / _CARD).read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / _CARD} cannot be read: {str(error).splitlines()[0]}") from error
    if card.format != FORMAT:
        raise DataError(f"{folder / _CARD} has format {card.format}, this version reads {FORMAT}; train again")
    found = _sha256(folder / _WEIGHTS)
    if found != card.weights_sha256:
        raise DataError(f"{folder / _WEIGHTS} is damaged: sha256 {found[:12]}, expected {card.weights_sha256[:12]}")
    model = ClickModel(card.model, card.features)
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{folder / _WEIGHTS} does not fit its model.json: {str(error).splitlines()[0]}") from error
    return TrainedModel(model.eval(), Vocabularies.load(folder / _VOCABULARY), card)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
