"""What is frozen when a model is trained further."""

import pytest
import torch

from pipelines.errors import ModelError
from pipelines.training.fine_tune import freeze_writer
from pipelines.training.fit import Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig
from tests.support.fakes import click_model, model_config, ragged_batch


def test_a_step_leaves_what_writes_and_moves_all_else() -> None:
    model = click_model(model_config(machine="slot_gru", encoder="transformer"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    freeze_writer(model, "it")
    learner = Learner(model, None)
    optimizer = build_optimizers(learner, OptimizerConfig(weight_decay=0.1))
    training_step(learner.train(), optimizer, ragged_batch(), clip_norm=1.0, generator=torch.Generator())
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == set(before) - set(model.writing_weights())
    assert "embedding.collection.embeddings.hour.weight" in moved  # context is read, never written


def test_a_window_of_the_whole_history_has_nothing_to_keep() -> None:
    model = click_model(model_config(machine="none", window={"kind": "whole_history"}))
    with pytest.raises(ModelError, match="there is no memory to keep"):
        freeze_writer(model, "it")
