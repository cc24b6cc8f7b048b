"""Checkpoints of training: safetensors and JSON, replaced atomically, so that a kill leaves the previous one.

current         a link to the checkpoint to resume from
step-E-B/       after E epochs and B batches: weights, optimiser, random state, progress, the best epoch's weights
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from feature_store.files import sync_folder, sync_tree
from pipelines.errors import ModelError, RunError, first_line
from pipelines.models.tensor_files import read_tensors, write_tensors
from rm_rec.config.base import Settings

_WEIGHTS, _OPTIMIZER, _STATE, _BEST = "model.safetensors", "optimizer.safetensors", "state.json", "best.safetensors"

_RNG, _CUDA_RNG = "rng", "rng_cuda"

Optimizers = Mapping[str, torch.optim.Optimizer]  # by what they train: "network", "tables"


class Epoch(Settings):
    """Results of one epoch."""

    number: int
    loss: float
    validation_auc: float
    train_seconds: float
    rehearsal: dict[str, float] = Field(default_factory=dict)
    """Rehearsal's losses and accuracies; empty without rehearsal."""


class FitState(Settings):
    """Progress of training; each step makes a new one."""

    fingerprint: str
    """Hash of config and data: a checkpoint of another run is refused."""
    epochs: tuple[Epoch, ...] = ()
    batches_done: int = 0
    """Batches of the current epoch."""
    loss_sum: float = 0.0
    num_impressions: int = 0
    rehearsal_sums: dict[str, float] = Field(default_factory=dict)
    """Sums of rehearsal's metrics over the impressions of the current epoch."""
    rehearsal_impressions: dict[str, int] = Field(default_factory=dict)
    """Number of impressions that each sum is over."""

    @property
    def mean_loss(self) -> float:
        """Mean loss of the current epoch so far."""
        return self.loss_sum / max(1, self.num_impressions)

    @property
    def mean_rehearsal(self) -> dict[str, float]:
        """Means of rehearsal's metrics over the current epoch so far."""
        return {name: total / self.rehearsal_impressions[name] for name, total in self.rehearsal_sums.items()}

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation AUC, the first of equal ones."""
        return max(self.epochs, key=lambda epoch: epoch.validation_auc, default=None)

    def is_finished(self, max_epochs: int, patience: int) -> bool:
        """Return whether training is to stop."""
        without_gain = len(self.epochs) - self.best.number if self.best else 0
        return len(self.epochs) >= max_epochs or without_gain >= patience

    def after_batch(
        self, loss_sum: float, num_impressions: int, rehearsal: Mapping[str, float] | None = None
    ) -> "FitState":
        """Add one batch; its rehearsal metrics are means over its impressions."""
        sums, impressions = dict(self.rehearsal_sums), dict(self.rehearsal_impressions)
        for name, mean in (rehearsal or {}).items():
            sums[name] = sums.get(name, 0.0) + mean * num_impressions
            impressions[name] = impressions.get(name, 0) + num_impressions
        return self.model_copy(
            update={
                "batches_done": self.batches_done + 1,
                "loss_sum": self.loss_sum + loss_sum,
                "num_impressions": self.num_impressions + num_impressions,
                "rehearsal_sums": sums,
                "rehearsal_impressions": impressions,
            }
        )

    def after_epoch(self, epoch: Epoch) -> "FitState":
        """End the current epoch."""
        return FitState(fingerprint=self.fingerprint, epochs=(*self.epochs, epoch))


def save_checkpoint(folder: Path, model: nn.Module, optimizers: Optimizers, state: FitState) -> None:
    """Write a checkpoint beside the previous one, then make it the current one by renaming a link."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_tensors(model.state_dict(), partial / _WEIGHTS)
    write_tensors(_optimizer_tensors(optimizers) | _random_state(model), partial / _OPTIMIZER)
    (partial / _STATE).write_text(state.model_dump_json(indent=2))
    is_best = state.batches_done == 0 and state.best is not None and state.best.number == len(state.epochs)
    if is_best:
        shutil.copyfile(partial / _WEIGHTS, partial / _BEST)
    elif (folder / "current" / _BEST).exists():
        shutil.copyfile(folder / "current" / _BEST, partial / _BEST)
    # A link to a folder can be replaced atomically, a folder that is not empty cannot.
    name = f"step-{len(state.epochs)}-{state.batches_done}"
    shutil.rmtree(folder / name, ignore_errors=True)
    sync_tree(partial)
    partial.rename(folder / name)
    link = folder / "current.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / "current")
    sync_folder(folder)
    for old in folder.glob("step-*"):
        if old.name != name:
            shutil.rmtree(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Optimizers, fingerprint: str) -> FitState | None:
    """Load the current checkpoint into model and optimizers and return its state; None if there is no checkpoint.

    Raises:
        RunError: it is damaged, of another config or log, or does not fit the model.
    """
    current = folder / "current"
    if not current.exists():
        return None
    try:
        state = FitState.model_validate_json((current / _STATE).read_text())
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{current / _STATE} is damaged; delete {folder} to train anew") from error
    if state.fingerprint != fingerprint:
        raise RunError(
            f"{folder} holds a run of another config or log; give another --out, or delete that folder to train anew"
        )
    try:
        if state.best is not None:
            read_tensors(current / _BEST)  # else damage would only be noticed after hours of training
        model.load_state_dict(read_tensors(current / _WEIGHTS))
        tensors = read_tensors(current / _OPTIMIZER)
        torch.set_rng_state(tensors.pop(_RNG))
        if _CUDA_RNG in tensors:
            torch.cuda.set_rng_state(tensors.pop(_CUDA_RNG), _device(model))
        _restore_optimizers(optimizers, tensors)
    except ModelError as error:
        raise RunError(f"{error}; delete {folder} to train anew") from error
    except (RuntimeError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise RunError(f"{current} does not fit this model ({reason}); delete {folder} to train anew") from error
    return state


def best_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the best epoch so far."""
    return read_tensors(folder / "current" / _BEST)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _random_state(model: nn.Module) -> dict[str, Tensor]:
    state = {_RNG: torch.get_rng_state()}
    if _device(model).type == "cuda":
        state[_CUDA_RNG] = torch.cuda.get_rng_state(_device(model))
    return state


def _optimizer_tensors(optimizers: Optimizers) -> dict[str, Tensor]:
    return {
        f"{part}.{index}.{name}": tensor
        for part, optimizer in optimizers.items()
        for index, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
    }


def _restore_optimizers(optimizers: Optimizers, tensors: dict[str, Tensor]) -> None:
    states: dict[str, dict[int, dict[str, Tensor]]] = {part: {} for part in optimizers}
    for key, tensor in tensors.items():
        part, index, name = key.split(".")
        states[part].setdefault(int(index), {})[name] = tensor
    for part, optimizer in optimizers.items():
        optimizer.load_state_dict(optimizer.state_dict() | {"state": states[part]})
