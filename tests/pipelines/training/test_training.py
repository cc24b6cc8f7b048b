"""How training cuts a log into steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipelines.training.fit import Fit, Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig, TrainingConfig
from rm_rec.config import RehearsalConfig
from rm_rec.machines.associative import AssociativeMachine
from rm_rec.model import ClickModel
from rm_rec.readers.supporting_facts import SupportingFacts
from tests.support.fakes import FEATURES, READERS, click_model, model_config, ragged_batch


@pytest.mark.parametrize(("events", "expected"), [(10_000_000, 4096), (409_600, 4096), (10_000, 100), (3, 1)])
def test_batches_of_a_small_log_are_smaller(events: int, expected: int, tmp_path: Path) -> None:
    data: Any = SimpleNamespace(num_training_events=events)
    learner = Learner(ClickModel(model_config(), FEATURES), RehearsalConfig())
    fit = Fit(learner, data, OptimizerConfig(), TrainingConfig(), tmp_path, fingerprint="")
    assert fit.batch_size.events == expected


def test_a_checkpoint_is_written_when_so_many_minutes_are_over_and_after_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch takes 30 seconds, and a minute is more than over after three."""
    saved: list[tuple[int, int]] = []
    clock = iter(range(0, 10_000, 30))
    batch: Any = SimpleNamespace(label=torch.zeros(2), to=lambda device: batch)
    table = pa.table({"label": [0.0, 1.0], "prediction": [0.1, 0.9]})
    for name, stand_in in {
        "time": SimpleNamespace(monotonic=lambda: now),
        "iterate_batches": lambda *_: ((None, batch) for _ in range(7)),
        "training_step": lambda *_: step(),
        "predict": lambda *_: table,
        "save_checkpoint": lambda folder, learner, optimizer, state: saved.append(
            (len(state.epochs), state.batches_done)
        ),
    }.items():
        monkeypatch.setattr(f"pipelines.training.fit.{name}", stand_in)
    now = next(clock)

    def step() -> Any:
        nonlocal now
        now = next(clock)
        return SimpleNamespace(click_loss=1.0, rehearsal={})

    data: Any = SimpleNamespace(
        num_training_events=100, num_impressions=lambda _: 14, epoch=lambda *_: [(None, torch.Generator())]
    )
    training = TrainingConfig(epochs=2, checkpoint_minutes=1.0)
    learner = Learner(ClickModel(model_config(), FEATURES), None)
    monkeypatch.setattr("pipelines.training.fit.best_weights", lambda _: learner.state_dict())
    Fit(learner, data, OptimizerConfig(), training, tmp_path, fingerprint="").run(lambda epoch: None)
    assert saved == [(0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]


def test_a_machines_penalty_is_trained_on_once_a_batch_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(penalty: float | None, bptt_segments: int) -> torch.Tensor:
        model = click_model(model_config(bptt_segments=bptt_segments))
        if penalty is not None:
            # Its gradient is the same for every state: what reaches the weight is the sum of the stretches' shares.
            monkeypatch.setattr(AssociativeMachine, "penalty", lambda machine, _: penalty * machine.keep.sum())
        learner = Learner(model, None)
        optimizer = build_optimizers(learner, OptimizerConfig())
        training_step(learner, optimizer, ragged_batch(), clip_norm=1e9, generator=torch.Generator())
        assert model.memory.slots is not None
        machine = model.memory.slots.machine
        assert isinstance(machine, AssociativeMachine)
        assert machine.keep.grad is not None
        return machine.keep.grad

    for bptt_segments in (2, 32):
        without, with_penalty = changed(None, bptt_segments), changed(7.0, bptt_segments)
        assert torch.allclose(with_penalty - without, torch.full_like(without, 7.0), atol=1e-4)
        monkeypatch.undo()


def test_a_readers_own_loss_is_trained_on_clicks_once_a_batch_however_it_is_cut() -> None:
    def model_with(weight: float, bptt_segments: int) -> ClickModel:
        reader = READERS["supporting_facts"] | {"support_weight": weight}
        return click_model(model_config(bptt_segments=bptt_segments, reader=reader))

    def gradient(model: ClickModel) -> torch.Tensor:
        assert model.memory.slots is not None
        assert isinstance(model.memory.slots.reader, SupportingFacts)
        found = model.memory.slots.reader.looked_for.weight.grad
        assert found is not None
        return found

    batch = ragged_batch()
    by_hand = model_with(5.0, 32)
    (output,) = by_hand.stretches(batch)
    penalty = by_hand.memory.penalty(output.memory, batch.label.index_select(0, output.impression) == 1)
    assert penalty is not None
    penalty.backward()
    for bptt_segments in (2, 32):
        trained = []
        for weight in (0.0, 5.0):
            model = model_with(weight, bptt_segments)
            learner = Learner(model, None)
            optimizer = build_optimizers(learner, OptimizerConfig())
            training_step(learner, optimizer, batch, clip_norm=1e9, generator=torch.Generator())
            trained.append(gradient(model))
        assert gradient(by_hand).abs().sum() > 0.1
        torch.testing.assert_close(trained[1] - trained[0], gradient(by_hand), atol=1e-5, rtol=1e-4)
