"""Training that goes on from a trained model: of all its weights, or of those alone that read memories.

With the writer frozen - the embeddings of events, the encoder, the machine - the memory space stays, and so do all
memories that were built: only reader, window attention, click head and context are trained.
"""

from collections.abc import Collection

from feature_store.data_config import DataConfig
from pipelines.errors import ModelError, SettingsError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.model_files import find_model
from pipelines.training.batches import feature_space
from pipelines.training.score_log import described
from rm_rec.config import ModelConfig
from rm_rec.model import ClickModel


def load_start(
    address: str, tracking_uri: str, given: ModelConfig, allowed_packages: Collection[str] = ()
) -> TrainedModel:
    """Load the model to start from; SettingsError where `given`, the job's own settings of a model, say another one."""
    trained = load_model(find_model(address, tracking_uri), allowed_packages)
    if given not in (ModelConfig(), trained.card.model):
        raise SettingsError(
            f"{address}: its settings are not those of `model` here; leave these out: a model that is trained further "
            "keeps its own"
        )
    return trained


def data_as_before(config: DataConfig, trained: TrainedModel, address: str) -> DataConfig:
    """Read the log with the model's own columns and impressions; ModelError where it gives other features."""
    config = described(config, trained.card)
    found = {*config.columns.event_features, *config.columns.item_features}
    known = {*trained.card.columns.event_features, *trained.card.columns.item_features}
    # Features first: the vocabulary of one that the model lacks is not there to be asked.
    if found != known or _space(config, trained) != trained.card.features:
        raise ModelError(f"{address}: it reads other features than data.columns and data.impressions name")
    return config


def _space(config: DataConfig, trained: TrainedModel) -> object:
    return feature_space(config.columns, config.impressions, trained.vocabularies)


def freeze_writer(model: ClickModel, address: str) -> None:
    """Leave what writes as it is; ModelError where nothing is written, so that nothing would be kept."""
    if model.memory.window.whole_history:
        raise ModelError(
            f"{address}: its window is the whole history; there is no memory to keep. Drop --freeze-writer"
        )
    writing = model.writing_weights().keys()
    for name, weight in model.named_parameters():
        if name in writing:
            weight.requires_grad_(False)
