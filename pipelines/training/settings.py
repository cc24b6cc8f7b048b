"""Settings of training."""

from typing import Literal

from pydantic import Field

from rm_rec.config.base import Settings

# Columns of predictions.parquet, beside those that a recipe carries from the log.
PREDICTED_COLUMNS = ("user_id", "item_id", "timestamp", "split", "label", "history_length", "prediction")


class OptimizerConfig(Settings):
    """AdamW for the network, and an optimizer of the embeddings that touches only the rows of a batch."""

    lr: float = Field(3e-3, gt=0.0, le=1.0)
    """Learning rate of the network."""
    embedding_lr: float = Field(1e-2, gt=0.0, le=1.0)
    """Learning rate of the embeddings; higher than the network's, as each row gets few gradients."""
    embeddings: Literal["adam", "adagrad"] = "adam"
    """Optimizer of the embeddings: lazy Adam (adam) keeps two numbers for each weight, row-wise Adagrad (adagrad) one
    for each row."""
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    """Decoupled weight decay of the network. Embeddings have none: it would shrink those of rare items most."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Maximum norm of the network's gradients, and of rehearsal's; larger ones are scaled down to it."""


class TrainingConfig(Settings):
    """Number of epochs, size of batches, seed and device."""

    epochs: int = Field(20, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(3, ge=1)
    """Stop after this many epochs without a better validation AUC; the best epoch's weights are kept."""
    batch_events: int = Field(4096, ge=1)
    """Maximum number of events in a batch, padding included; a longer user is a batch of its own. Machines that go
    event by event (ntm, dnc, mimn) have batches of eight times as many."""
    batch_impressions: int = Field(128, ge=0)
    """A batch with fewer impressions than this holds up to 32 times as many events, as where users have one each."""
    min_batches: int = Field(100, ge=1)
    """Approximate minimum number of batches in an epoch: on a small log, batches are made smaller to reach it."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the order of users, training's sampled negatives and rehearsal."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    device: str = "cpu"
    """Device to train on: cpu, cuda, cuda:1, ..."""
    checkpoint_minutes: float = Field(5.0, gt=0.0)
    """Maximum minutes between two checkpoints; one is also written after each epoch."""
