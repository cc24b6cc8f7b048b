"""How training cuts a log into steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.training import Fit, Learner, OptimizerConfig, TrainingConfig, build_optimizer, training_step
from rm_rec.config import RehearsalConfig
from rm_rec.machines.associative import AssociativeMachine
from rm_rec.model import ClickModel
from tests.fakes import FEATURES, click_model, model_config, ragged_batch


@pytest.mark.parametrize(("events", "expected"), [(10_000_000, 4096), (409_600, 4096), (10_000, 100), (3, 1)])
def test_batches_of_a_small_log_are_smaller(events: int, expected: int, tmp_path: Path) -> None:
    data: Any = SimpleNamespace(num_training_events=events)
    learner = Learner(ClickModel(model_config(), FEATURES), RehearsalConfig())
    fit = Fit(learner, data, OptimizerConfig(), TrainingConfig(), tmp_path, fingerprint="")
    assert fit.batch_events == expected


def test_a_machines_penalty_is_trained_on_once_a_batch_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(penalty: float | None, bptt_segments: int) -> torch.Tensor:
        model = click_model(model_config(bptt_segments=bptt_segments))
        if penalty is not None:
            # Its gradient is the same for every state: what reaches the weight is the sum of the stretches' shares.
            monkeypatch.setattr(AssociativeMachine, "penalty", lambda machine, _: penalty * machine.keep.sum())
        learner = Learner(model, None)
        optimizer = build_optimizer(learner, OptimizerConfig())
        training_step(learner, optimizer, ragged_batch(), clip_norm=1e9, generator=torch.Generator())
        machine = model.memory.machine
        assert isinstance(machine, AssociativeMachine)
        assert machine.keep.grad is not None
        return machine.keep.grad

    for bptt_segments in (2, 32):
        without, with_penalty = changed(None, bptt_segments), changed(7.0, bptt_segments)
        assert torch.allclose(with_penalty - without, torch.full_like(without, 7.0), atol=1e-4)
        monkeypatch.undo()
