"""A trained model on disk: safetensors, JSON and Arrow in one folder, no pickle; hashes are checked when it is read.

model.safetensors  the weights
model.json         settings, features, the log's columns, versions, and the hashes of the other files
vocabulary/        id -> embedding row, for each feature
"""

import json
import re
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError
from torch import Tensor

from feature_store.data_config import Columns, Impressions
from feature_store.files import replacing_folder, sha256_of_file, sha256_of_folder
from feature_store.vocabulary.vocabularies import Vocabularies
from pipelines.errors import ModelError, first_line
from pipelines.models.memory_space import space_id
from pipelines.models.tensor_files import read_tensors, write_tensors
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.config.base import Settings
from rm_rec.config.outside import outside_packages
from rm_rec.errors import ConfigError
from rm_rec.model import ClickModel
from rm_rec.outside import require_allowed

FORMAT = 3
_READABLE = (2, FORMAT)  # in format 2 no model needs packages
_WEIGHTS, _CARD, _VOCABULARY = "model.safetensors", "model.json", "vocabulary"


class ModelCard(Settings):
    """What is needed, beside weights and vocabulary, to use a model on a log like the one it was trained on."""

    format: int = FORMAT
    rm_rec: str
    torch: str
    model: ModelConfig
    features: FeatureSpace
    columns: Columns
    impressions: Impressions
    weights_sha256: str
    vocabulary_sha256: str
    """Hash of the names and contents of the folder's files."""
    memory_space: str | None
    """Memory space of the memories that it can read; null if its window is the whole history, so that it has none."""
    packages: tuple[str, ...] = ()
    """Packages outside rm-rec that it needs, for information only: `model` decides what is imported."""


class TrainedModel:
    """A model, the vocabularies of its features, and its card."""

    def __init__(self, model: ClickModel, vocabularies: Vocabularies, card: ModelCard) -> None:
        self.model = model
        self.vocabularies = vocabularies
        self.card = card


def save_model(
    folder: Path, model: ClickModel, vocabularies: Vocabularies, columns: Columns, impressions: Impressions
) -> TrainedModel:
    """Write a model to a folder, atomically replacing what is there.

    Raises ConfigError if a part of its memory was given as a Python object, which settings cannot build again.
    """
    if model.memory.given:
        raise ConfigError(
            f"{folder}: the model's {model.memory.given[0]} was given as an object, so that it could not be built "
            "again; name its class in the model's settings: kind package.module:Class"
        )
    with replacing_folder(folder) as partial:
        write_tensors(model.state_dict(), partial / _WEIGHTS)
        vocabularies.save(partial / _VOCABULARY)
        card = ModelCard(
            rm_rec=version("rm-rec"),
            torch=version("torch"),
            model=model.config,
            features=model.features,
            columns=columns,
            impressions=impressions,
            weights_sha256=sha256_of_file(partial / _WEIGHTS),
            vocabulary_sha256=sha256_of_folder(partial / _VOCABULARY),
            memory_space=space_id(model, vocabularies),
            packages=outside_packages(model.config),
        )
        (partial / _CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=2))
    return TrainedModel(model, vocabularies, card)


def load_model(folder: Path, allowed_packages: Collection[str] = ()) -> TrainedModel:
    """Read a model from a folder, to evaluate it or to write and read memories; its tables cannot be sharded.

    A model that names classes of packages outside rm-rec is refused, before anything is imported from them, unless
    these packages are in `allowed_packages`.

    Raises:
        ModelError: a file is missing, damaged or of another format, or a package is not allowed.
    """
    for name in (_WEIGHTS, _CARD, _VOCABULARY):
        if not (folder / name).exists():
            raise ModelError(f"{folder} is not a model: it has no {name}; expected a folder that train_ctr wrote")
    card = _read_card(folder / _CARD)
    try:
        require_allowed(card.model, allowed_packages)
    except ConfigError as error:
        raise ModelError(f"{folder / _CARD}: {error}") from error
    for path, actual, expected in (
        (folder / _WEIGHTS, sha256_of_file(folder / _WEIGHTS), card.weights_sha256),
        (folder / _VOCABULARY, sha256_of_folder(folder / _VOCABULARY), card.vocabulary_sha256),
    ):
        if actual != expected:
            raise ModelError(
                f"{path} is damaged: sha256 {actual[:12]}, expected {expected[:12]}; copy it again, or train again"
            )
    try:
        model = ClickModel(card.model, card.features, allowed_packages=allowed_packages, shardable=False)
    except ConfigError as error:
        raise ModelError(f"{folder / _CARD} cannot be used here: {error}") from error
    try:
        model.load_state_dict(_with_current_names(read_tensors(folder / _WEIGHTS)))
    except RuntimeError as error:
        raise ModelError(f"{folder / _WEIGHTS} does not fit its model.json: {first_line(error)}") from error
    try:
        vocabularies = Vocabularies.load(folder / _VOCABULARY)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise ModelError(f"{folder / _VOCABULARY} cannot be read: {first_line(error)}") from error
    space = space_id(model, vocabularies)
    if space != card.memory_space:
        raise ModelError(
            f"{folder / _CARD} is damaged: it names memory space {card.memory_space}, its weights are in {space}; "
            "copy it again, or train again"
        )
    return TrainedModel(model.eval(), vocabularies, card.model_copy(update={"model": model.config}))


def _with_current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of version 0.1, where encoder, machine and reader were in `memory`, not in `memory.slots`."""
    old_prefix = re.compile(r"^memory\.(?=(encoder|machine|reader)\.)")
    return {old_prefix.sub("memory.slots.", name): weight for name, weight in weights.items()}


def _read_card(path: Path) -> ModelCard:
    try:
        values = json.loads(path.read_text())
        # Checked before the fields: another format has other fields.
        if isinstance(values, dict) and values.get("format") not in _READABLE:
            readable = " and ".join(map(str, _READABLE))
            raise ModelError(f"{path} has format {values.get('format')}, this version reads {readable}; train again")
        return ModelCard.model_validate(values, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path} cannot be used: {where}: {first['msg']}; train again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged: it is not JSON; copy it again, or train again") from error
