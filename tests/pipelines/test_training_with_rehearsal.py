"""Rehearsal is trained beside the model, taken up again bit for bit, and no part of what is saved."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from feature_store.data_config import ITEM, Columns, LabelColumn
from feature_store.vocabulary.vocabularies import COUNT, Vocabularies
from feature_store.vocabulary.vocabulary import Vocabulary
from pipelines.models.artifact import load_model, save_model
from pipelines.models.tensor_files import read_tensors
from pipelines.training import fit as training
from pipelines.training.fit import Fit, Learner, Outcome, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig, TrainingConfig
from rm_rec.config import FeatureSpace, RehearsalConfig
from rm_rec.model import ClickModel
from tests.support.fakes import KINDS, model_config, user_batch
from tests.support.rehearsed import begun, random, rehearsal_config

SPACE = FeatureSpace(rows={ITEM: 30}, events=(ITEM,), targets=(ITEM,))
BATCH = user_batch([27, 16, 9, 0], [[27, 11, 3], [16, 8], [5], [0]], features=SPACE)


WITH = rehearsal_config(sampler="student", warm_up_steps=3)


def learner(kind: str = "slot_gru", rehearsal: RehearsalConfig | None = WITH, token_dropout: float = 0.0) -> Learner:
    torch.manual_seed(0)
    model = ClickModel(model_config(machine=kind, bptt_segments=2, token_dropout=token_dropout), SPACE)
    return Learner(model, rehearsal)


def stepped(seed: int, kind: str = "slot_gru", rehearsal: RehearsalConfig | None = WITH) -> tuple[Learner, Outcome]:
    """A learner without dropout after three steps; what is drawn elsewhere does not matter."""
    made = learner(kind, rehearsal)
    optimizer = build_optimizers(made, OptimizerConfig())
    torch.seed()
    for number in range(3):
        step = training_step(made.train(), optimizer, BATCH, 1.0, random(100 * seed + number))
    return made, step


@pytest.fixture(scope="module", params=["none", *KINDS])
def made(request: pytest.FixtureRequest) -> tuple[str, Learner, Outcome]:
    """A kind of machine, and what `stepped(5, kind)` gives: to be read."""
    return request.param, *stepped(5, request.param)


def test_network_and_rehearsal_are_clipped_each_by_itself_and_embeddings_never() -> None:
    def gradients(clip_norm: float) -> list[Tensor]:
        made = learner()
        training_step(made.train(), build_optimizers(made, OptimizerConfig()), BATCH, clip_norm, random(0))
        assert made.rehearsal is not None
        weights = dict(made.model.named_parameters())
        network = [weight for name, weight in weights.items() if not name.startswith("embedding.")]
        parts = (network, made.rehearsal.parameters(), made.model.embedding.parameters())
        found = ([weight.grad.to_dense().flatten() for weight in part if weight.grad is not None] for part in parts)
        return [torch.cat(each) for each in found]

    clipped, whole = gradients(1e-3), gradients(1e9)
    for part in (0, 1):
        assert whole[part].norm() > 1e-2
        torch.testing.assert_close(clipped[part], whole[part] * (1e-3 / whole[part].norm()), rtol=1e-3, atol=1e-9)
    assert torch.equal(clipped[2], whole[2])


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(values, other[name]) for name, values in one.items())


def test_one_seed_gives_the_same_weights_and_figures_another_gives_others(made: tuple[str, Learner, Outcome]) -> None:
    kind, first, step = made
    again, step_again = stepped(5, kind)
    other, _ = stepped(6, kind)
    assert same(weights_of(first), weights_of(again))
    assert (step.click_loss, step.rehearsal) == (step_again.click_loss, step_again.rehearsal)
    assert torch.equal(step.loss, step_again.loss)
    assert not same(weights_of(first.model), weights_of(other.model))
    assert int(first.state_dict()["rehearsal.steps_done"]) == 3


def test_without_rehearsal_nothing_is_drawn() -> None:
    first, step = stepped(5, rehearsal=None)
    other, _ = stepped(6, rehearsal=None)
    assert first.rehearsal is None
    assert step.rehearsal == {}
    assert same(weights_of(first), weights_of(other))


def test_what_is_saved_is_the_model_and_nothing_else(made: tuple[str, Learner, Outcome], tmp_path: Path) -> None:
    _, taught, _ = made
    assert any("rehearsal" in name for name in taught.state_dict()), "the learner itself has it"
    items = pa.array(list(range(28)))
    vocabularies = Vocabularies({ITEM: Vocabulary(items, 2)}, (), pa.table({ITEM: items, COUNT: [1] * 28}))
    save_model(tmp_path / "model", taught.model, vocabularies, Columns(), LabelColumn(column="clicked"))
    (file,) = (tmp_path / "model").rglob("*.safetensors")
    plain = ClickModel(taught.model.config, SPACE)
    saved = read_tensors(file)
    assert {name: values.shape for name, values in saved.items()} == {
        name: values.shape for name, values in plain.state_dict().items()
    }
    assert not any("rehearsal" in name for name in saved)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "model").model(BATCH), taught.model.eval()(BATCH))


def test_figures_are_means_over_the_impressions_that_were_rehearsed() -> None:
    # The first stretch answers three impressions of four, and no state of it has folded a fragment of 16 events.
    made = learner(rehearsal=rehearsal_config(fragment_length=16))
    batch = user_batch([20, 3], [[20], [3, 2, 1]], features=SPACE)
    found = []
    assert made.rehearsal is not None
    with torch.no_grad():
        rehearsal, outputs = begun(made.rehearsal, made.model, batch)
        found = [rehearsal.loss(output.memory) for output in outputs]
    assert [loss is None for loss in found] == [True, False]
    assert found[1] is not None
    step = training_step(made, build_optimizers(made, OptimizerConfig()), batch, 1.0, random())
    assert step.rehearsal == pytest.approx(found[1].figures)


class Killed(BaseException):
    pass


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each step's generator was seeded with."""
    found: list[int] = []
    step = training.training_step

    def listened(*arguments: Any) -> Outcome:
        found.append(arguments[-1].initial_seed())
        return step(*arguments)

    batches = [user_batch([9, 14], [[9, 5], [14]], seed, SPACE) for seed in range(4)]
    predicted = pa.table({"label": [0.0, 1.0], "prediction": [0.4, 0.6]})
    monkeypatch.setattr(training, "training_step", listened)
    monkeypatch.setattr(training, "iterate_batches", lambda *_: iter([(None, batch) for batch in batches]))
    monkeypatch.setattr(training, "predict", lambda *_: predicted)
    return found


def fit(folder: Path, seed: int = 0, epochs: int = 2) -> Fit:
    """Two epochs of four batches, with a checkpoint after each batch."""
    data: Any = SimpleNamespace(
        num_training_events=100, num_impressions=lambda _: 12, epoch=lambda seed, epoch: [(None, None)]
    )
    settings = TrainingConfig(seed=seed, epochs=epochs, checkpoint_minutes=1e-9)
    return Fit(learner(token_dropout=0.2), data, OptimizerConfig(), settings, folder, fingerprint="f")


def test_a_run_taken_up_again_rehearses_as_if_unbroken(
    tmp_path: Path, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tmp_path / "whole")
    state = whole.run(lambda epoch: None)
    unbroken = seeds.copy()
    assert len(set(unbroken)) == 8, "each batch of each epoch draws for itself"

    seeds.clear()
    with monkeypatch.context() as during:
        step = training.training_step

        def killed_at_the_seventh(*arguments: Any) -> Outcome:
            if len(seeds) == 6:
                raise Killed
            return step(*arguments)

        during.setattr(training, "training_step", killed_at_the_seventh)
        with pytest.raises(Killed):
            fit(tmp_path / "broken").run(lambda epoch: None)
    resumed = fit(tmp_path / "broken")
    torch.seed()
    assert resumed.resume()
    assert resumed.state.batches_done == 2
    again = resumed.run(lambda epoch: None)
    assert seeds == unbroken
    assert same(weights_of(resumed.learner), weights_of(whole.learner))
    assert [epoch.rehearsal for epoch in again.epochs] == [epoch.rehearsal for epoch in state.epochs]
    assert again.epochs[0].rehearsal["recollection_loss"] > 0


def test_another_seed_rehearses_otherwise(tmp_path: Path, seeds: list[int]) -> None:
    for seed in (0, 1):
        fit(tmp_path / str(seed), seed, epochs=1).run(lambda epoch: None)
    assert len(set(seeds)) == len(seeds) == 8
