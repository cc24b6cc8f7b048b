"""Training: epochs over users, early stopping on validation, and checkpoints to resume from with the same result."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from feature_store.data_config import SPLITS
from feature_store.sequences.user_sequences import UserSequences
from pipelines.cli.job import Progress
from pipelines.errors import SettingsError
from pipelines.runs.allocator import keep_freed_memory
from pipelines.training.batches import BatchSize, iterate_batches
from pipelines.training.checkpoint import Epoch, FitState, Optimizers, best_weights, load_checkpoint, save_checkpoint
from pipelines.training.data import TRAIN, VALIDATION, LogData
from pipelines.training.settings import PREDICTED_COLUMNS, OptimizerConfig, TrainingConfig
from rm_rec.batch import UserBatch
from rm_rec.config import RehearsalConfig
from rm_rec.embedding import Embedded
from rm_rec.evaluation.metrics import auc
from rm_rec.model import ClickModel
from rm_rec.rehearsal.objective import RehearsalObjective
from rm_rec.row_optimizers import LazyAdam, RowWiseAdagrad
from rm_rec.stretch_loss import sum_of_losses

_OF_TABLES = {"adam": LazyAdam, "adagrad": RowWiseAdagrad}


class Outcome(NamedTuple):
    """Loss and metrics of a batch.

    It is a tuple because DistributedDataParallel looks for the loss in tuples, not in dataclasses, to synchronise.
    """

    loss: Tensor
    click_loss: float
    """Sum of the click losses of the batch's impressions."""
    rehearsal: dict[str, float]
    """Rehearsal's metrics: means over the stretches that have them, weighted by impressions."""


class Learner(nn.Module):
    """Everything that is trained: the model, and the rehearsal, which is no part of the model."""

    def __init__(self, model: ClickModel, rehearsal: RehearsalConfig | None) -> None:
        super().__init__()
        self.model = model
        self.rehearsal = RehearsalObjective(rehearsal, model.memory) if rehearsal is not None else None

    def forward(self, batch: UserBatch, generator: torch.Generator) -> Outcome:
        """Return a batch's loss, summed stretch by stretch; embeddings are looked up once, with one backward pass."""
        vectors = self.model.embed(batch)
        metrics = _Metrics()
        weights = [weight for name, weight in self.named_parameters() if not name.startswith("model.embedding.")]

        def losses(leaves: Sequence[Tensor]) -> Iterator[Tensor]:
            return self._losses(batch, Embedded(*leaves), generator, metrics)

        inputs = (vectors.events, vectors.content, vectors.targets, vectors.context)
        loss = sum_of_losses(losses, inputs, weights)
        return Outcome(loss, metrics.click_loss, metrics.means())

    def _losses(
        self, batch: UserBatch, vectors: Embedded, generator: torch.Generator, metrics: "_Metrics"
    ) -> Iterator[Tensor]:
        memory, rehearsal = self.model.memory, None
        if self.rehearsal is not None:
            histories, queries = batch.histories(vectors.events), batch.queries(vectors.targets)
            rehearsal = self.rehearsal.begin(
                memory, histories, queries, content=vectors.content, label=batch.label, generator=generator
            )
        for output in self.model.stretches(batch, vectors, every_boundary=rehearsal is not None):
            label = batch.label.index_select(0, output.impression)
            click_loss = nn.functional.binary_cross_entropy_with_logits(output.logits, label, reduction="sum")
            loss = click_loss / len(batch.label)
            weight = len(label) / len(batch.label)  # a stretch counts by its impressions, as in the click loss
            penalty = memory.penalty(output.memory, label > 0.5)
            if penalty is not None:
                loss = loss + weight * penalty
            rehearsed = rehearsal.loss(output.memory) if rehearsal is not None else None
            if rehearsed is not None:
                loss = loss + weight * rehearsed.loss
            metrics.add(click_loss, weight, rehearsed.figures if rehearsed is not None else {})
            yield loss


class _Metrics:
    """Sums metrics over the stretches of a batch."""

    def __init__(self) -> None:
        self.click_loss = 0.0
        self._sums: Counter[str] = Counter()
        self._weights: Counter[str] = Counter()

    def add(self, click_loss: Tensor, weight: float, rehearsal: Mapping[str, float]) -> None:
        self.click_loss += click_loss.item()
        self._sums.update({name: weight * value for name, value in rehearsal.items()})
        self._weights.update(dict.fromkeys(rehearsal, weight))

    def means(self) -> dict[str, float]:
        return {name: value / self._weights[name] for name, value in self._sums.items()}


class Fit:
    """One training run of one model on one log, in one folder of checkpoints."""

    def __init__(
        self,
        learner: Learner,
        data: LogData,
        optimizer: OptimizerConfig,
        training: TrainingConfig,
        folder: Path,
        fingerprint: str,
    ) -> None:
        self.learner, self.data, self.training, self.folder = learner, data, training, folder
        self.clip_norm = optimizer.clip_norm
        self.batch_size = BatchSize.of(
            training.batch_events * learner.model.memory.batch_factor,
            training.batch_impressions,
            data.num_training_events,
            training.min_batches,
        )
        self.optimizers = build_optimizers(learner, optimizer)
        self.state = FitState(fingerprint=fingerprint)

    def resume(self) -> bool:
        """Load the folder's checkpoint and return whether there is one; raises RunError as `load_checkpoint`."""
        state = load_checkpoint(self.folder, self.learner, self.optimizers, self.state.fingerprint)
        if state is not None:
            self.state = state
        return state is not None

    def run(self, after_epoch: Callable[[Epoch], None]) -> FitState:
        """Train until early stopping, then load the best epoch's weights into the model."""
        keep_freed_memory()
        while not self.state.is_finished(self.training.epochs, self.training.patience):
            after_epoch(self._epoch())
        self.learner.load_state_dict(best_weights(self.folder))
        self.learner.eval()
        return self.state

    def _epoch(self) -> Epoch:
        epoch = len(self.state.epochs)
        started = last_saved = time.monotonic()
        self.learner.train()
        batch_number = 0
        with Progress(f"training epoch {epoch + 1}", self.data.num_impressions(TRAIN), "impressions") as progress:
            for sequences, generator in self.data.epoch(self.training.seed, epoch):
                for _, batch in iterate_batches(sequences, TRAIN, self.batch_size, generator):
                    batch_number += 1
                    if batch_number <= self.state.batches_done:
                        progress.advance(len(batch.label))
                        continue
                    # Seeded by the batch's number, so that a resumed run rehearses like an uninterrupted one.
                    seed = np.random.SeedSequence([self.training.seed, epoch, batch_number]).generate_state(1)
                    random = torch.Generator(self.training.device).manual_seed(int(seed[0]))
                    step = training_step(
                        self.learner, self.optimizers, batch.to(self.training.device), self.clip_norm, random
                    )
                    self.state = self.state.after_batch(step.click_loss, len(batch.label), step.rehearsal)
                    progress.advance(len(batch.label), note=f"loss {self.state.mean_loss:.4f}")
                    if time.monotonic() - last_saved > 60 * self.training.checkpoint_minutes:
                        save_checkpoint(self.folder, self.learner, self.optimizers, self.state)
                        last_saved = time.monotonic()
        train_seconds = time.monotonic() - started
        predictions = predict(self.learner.model, self.data, VALIDATION, self.training)
        validation_auc = auc(predictions["label"].to_numpy(), predictions["prediction"].to_numpy())
        result = Epoch(
            number=epoch + 1,
            loss=self.state.mean_loss,
            validation_auc=validation_auc,
            train_seconds=train_seconds,
            rehearsal=self.state.mean_rehearsal,
        )
        self.state = self.state.after_epoch(result)
        save_checkpoint(self.folder, self.learner, self.optimizers, self.state)
        return result


def device_of(name: str, setting: str) -> torch.device:
    """Return a device by its name; SettingsError, naming the setting, where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"{setting} {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def build_optimizers(learner: Learner, config: OptimizerConfig) -> Optimizers:
    """Return the optimizers of all weights that are not frozen; tables get sparse gradients.

    "network" trains the network and rehearsal, "tables" the embeddings, of which it touches the batch's rows alone.
    """

    def not_frozen(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        return [weight for weight in weights if weight.requires_grad]

    network = not_frozen(_network(learner.model))
    if learner.rehearsal is not None:
        network += learner.rehearsal.parameters()
    optimizers: dict[str, torch.optim.Optimizer] = {}
    optimizers["network"] = torch.optim.AdamW(network, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    if tables := not_frozen(learner.model.embedding.parameters()):
        optimizers["tables"] = _OF_TABLES[config.embeddings](tables, lr=config.embedding_lr)
    learner.model.embedding.give_sparse_gradients()
    return optimizers


def training_step(
    learner: Learner, optimizers: Optimizers, batch: UserBatch, clip_norm: float, generator: torch.Generator
) -> Outcome:
    """Take one step of all optimizers on a batch."""
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    outcome: Outcome = learner(batch, generator)
    outcome.loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    nn.utils.clip_grad_norm_(_network(learner.model), clip_norm)
    if learner.rehearsal is not None:
        nn.utils.clip_grad_norm_(learner.rehearsal.parameters(), clip_norm)
    for optimizer in optimizers.values():
        optimizer.step()
    return outcome


def _network(model: ClickModel) -> list[nn.Parameter]:
    """Return the weights that are not embeddings."""
    return [weight for name, weight in model.named_parameters() if not name.startswith("embedding.")]


def predict(model: ClickModel, data: LogData, split: int, training: TrainingConfig) -> pa.Table:
    """Score every impression of a split; return a table with PREDICTED_COLUMNS and the carried columns."""
    model.eval()
    parts: list[pa.Table] = []
    size = BatchSize(4 * training.batch_events * model.memory.batch_factor)  # without gradients, more fit in memory
    with torch.inference_mode():
        for sequences in data.buckets():
            for chosen, batch in iterate_batches(sequences, split, size):
                probability = torch.sigmoid(model(batch.to(training.device)).double()).cpu().numpy()
                parts.append(_predictions(chosen, probability, split))
    return pa.concat_tables(parts)


def _predictions(sequences: UserSequences, probability: np.ndarray, split: int) -> pa.Table:
    users = np.repeat(np.arange(len(sequences.users)), np.diff(sequences.impression_offsets))
    columns: dict[str, pa.Array | np.ndarray] = {
        "user_id": sequences.users.take(pa.array(users)),
        "item_id": sequences.item,
        "timestamp": sequences.impression_time,
        "split": pa.repeat(SPLITS[split], len(users)),
        "label": sequences.label,
        "history_length": sequences.num_earlier,
        "prediction": probability,
    }
    assert tuple(columns) == PREDICTED_COLUMNS
    return pa.table(columns | sequences.carried)
