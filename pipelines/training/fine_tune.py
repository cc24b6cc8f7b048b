"""Fine-tuning a trained model: all of its weights, or only those that read memories.

The writer is the embeddings of events, the encoder and the machine. With a frozen writer the memory space stays the
same, so memories that were built stay valid: only reader, window attention, click head and context are trained.
"""

from collections.abc import Collection

from feature_store.data_config import DataConfig
from pipelines.errors import ModelError, SettingsError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.model_files import find_model
from pipelines.training.score_log import described, reads_same_features
from rm_rec.config import ModelConfig
from rm_rec.model import ClickModel


def load_start(
    address: str, tracking_uri: str, settings: ModelConfig, allowed_packages: Collection[str] = ()
) -> TrainedModel:
    """Load the model to start from; raises SettingsError if `settings` of a model are given that are not its own."""
    trained = load_model(find_model(address, tracking_uri), allowed_packages)
    if settings not in (ModelConfig(), trained.card.model):
        raise SettingsError(
            f"{address}: its settings are not those of `model` here; leave these out: a model that is trained further "
            "keeps its own"
        )
    return trained


def data_as_before(config: DataConfig, trained: TrainedModel, address: str) -> DataConfig:
    """Return the config with the model's columns and impressions; raises ModelError if the features differ."""
    config = described(config, trained.card)
    if not reads_same_features(trained, config):
        raise ModelError(f"{address}: it reads other features than data.columns and data.impressions name")
    return config


def freeze_writer(model: ClickModel, address: str) -> None:
    """Freeze the weights that write memories; raises ModelError if the model has no memory."""
    if model.memory.window.whole_history:
        raise ModelError(
            f"{address}: its window is the whole history; there is no memory to keep. Drop --freeze-writer"
        )
    writing = model.writing_weights().keys()
    for name, weight in model.named_parameters():
        if name in writing:
            weight.requires_grad_(False)
