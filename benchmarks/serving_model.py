"""An untrained default model with a vocabulary, and users to build memories of: what the speed benchmarks share."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from feature_store.data_config import ITEM, Columns, NextEvent
from feature_store.vocabulary.vocabularies import COUNT, Vocabularies
from feature_store.vocabulary.vocabulary import Vocabulary
from pipelines.models.artifact import TrainedModel, save_model
from pipelines.training.batches import feature_space
from rm_rec.config import ModelConfig
from rm_rec.model import ClickModel

NUM_ITEMS = 50_000
DAY = 86_400
START = 1_700_000_000


def make_model(folder: Path) -> TrainedModel:
    """Make the quickstart's model: token dimension 32, a state of 2 KB in float16. Weights do not change its cost."""
    torch.manual_seed(0)
    columns = Columns()
    items = pa.array(np.arange(NUM_ITEMS))
    counts = pa.table({ITEM: items, COUNT: np.ones(NUM_ITEMS, np.int64)})
    vocabularies = Vocabularies({ITEM: Vocabulary(items, 16)}, (), counts)
    model = ClickModel(ModelConfig(), feature_space(columns, NextEvent(), vocabularies)).eval()
    return save_model(folder, model, vocabularies, columns, NextEvent())


def write_log(path: Path, users: np.ndarray, events: int, first: int, seconds: int) -> None:
    """Write a log in time's order, in which each user has so many events at random moments of a stretch of time."""
    generator = np.random.default_rng(first)
    size = len(users) * events
    time = np.sort(generator.integers(first, first + seconds, size))
    table = pa.table(
        {
            "user_id": generator.permutation(np.repeat(users, events)),
            "item_id": generator.zipf(1.2, size) % NUM_ITEMS,
            "timestamp": time,
        }
    )
    pq.write_table(table, path, compression="zstd")
