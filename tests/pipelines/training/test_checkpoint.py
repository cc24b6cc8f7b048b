"""Checkpoints: training goes on bit for bit, a kill leaves the one before, damage is one line."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.errors import RunError
from pipelines.training import checkpoint
from pipelines.training.checkpoint import (
    Epoch,
    FitState,
    Optimizers,
    best_weights,
    load_checkpoint,
    save_checkpoint,
)
from rm_rec.row_optimizers import LazyAdam, RowOptimizer, RowWiseAdagrad


def make(seed: int = 0, tables: type[RowOptimizer] = LazyAdam) -> tuple[nn.Module, Optimizers]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Dropout(0.5), nn.Linear(4, 1))
    network = torch.optim.AdamW(model[2].parameters(), lr=0.01, weight_decay=0.1, fused=True)
    return model, {"network": network, "tables": tables(model[0].parameters())}


def step(model: nn.Module, optimizers: Optimizers, times: int) -> None:
    for _ in range(times):
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        model(torch.randint(6, (16,))).square().sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()


def epoch(number: int, area: float) -> Epoch:
    return Epoch(number=number, loss=0.5, validation_auc=area, train_seconds=1.0)


STATE = FitState(fingerprint="f").after_batch(3.0, 4)


@pytest.mark.parametrize("tables", [LazyAdam, RowWiseAdagrad])
def test_training_goes_on_bit_for_bit(tables: type[RowOptimizer], tmp_path: Path) -> None:
    model, optimizers = make(tables=tables)
    step(model, optimizers, 3)
    save_checkpoint(tmp_path, model, optimizers, STATE)
    step(model, optimizers, 3)

    other, anew = make(seed=9, tables=tables)
    step(other, anew, 1)
    assert load_checkpoint(tmp_path, other, anew, "f") == STATE
    step(other, anew, 3)  # dropout and data are drawn from the restored random state
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    for part, ours in {part: each.state_dict() for part, each in optimizers.items()}.items():
        theirs = anew[part].state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys() != set()
        for index, values in ours["state"].items():
            assert all(torch.equal(tensor, theirs["state"][index][name]) for name, tensor in values.items())


@pytest.mark.parametrize("fails_at", ["optimizer.safetensors", "state", "link"])
def test_a_kill_while_it_is_written_leaves_the_one_before(
    tmp_path: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers = make()
    step(model, optimizers, 1)
    save_checkpoint(tmp_path, model, optimizers, STATE)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, optimizers, 1)

    class Killed(BaseException):
        pass

    def killed(*arguments: object, **named: object) -> None:
        raise Killed

    write = checkpoint.write_tensors

    with monkeypatch.context() as during:
        if fails_at == "state":
            during.setattr(Path, "write_text", killed)
        elif fails_at == "link":
            during.setattr(Path, "symlink_to", killed)
        else:
            during.setattr(
                checkpoint,
                "write_tensors",
                lambda tensors, path: killed() if path.name == fails_at else write(tensors, path),
            )
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, model, optimizers, STATE.after_batch(1.0, 1))

    other, anew = make(seed=9)
    assert load_checkpoint(tmp_path, other, anew, "f") == STATE
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in kept.items())
    # What the kill left behind is in nobody's way.
    save_checkpoint(tmp_path, model, optimizers, STATE.after_batch(1.0, 1))
    assert load_checkpoint(tmp_path, other, anew, "f") == STATE.after_batch(1.0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "step-0-2"]


def test_the_best_weights_outlive_worse_epochs(tmp_path: Path) -> None:
    model, optimizers = make()
    state, weights = FitState(fingerprint="f"), []
    for number, area in enumerate([0.6, 0.7, 0.7, 0.65], start=1):
        step(model, optimizers, 1)
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        save_checkpoint(tmp_path, model, optimizers, state.after_batch(1.0, 1))
        state = state.after_epoch(epoch(number, area))
        save_checkpoint(tmp_path, model, optimizers, state)
    assert state.best is not None
    assert state.best.number == 2  # the first of equals
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in best_weights(tmp_path).items())
    assert state.is_finished(max_epochs=9, patience=2)
    assert not state.is_finished(max_epochs=9, patience=3)
    assert state.is_finished(max_epochs=4, patience=3)


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", *make(), "f") is None


def test_one_of_another_run_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *make(), STATE)
    with pytest.raises(RunError, match="holds a run of another config or log; give another --out"):
        load_checkpoint(tmp_path, *make(), "g")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "best.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, name: str, damage: str) -> None:
    model, optimizers = make()
    step(model, optimizers, 1)
    save_checkpoint(tmp_path, model, optimizers, FitState(fingerprint="f").after_epoch(epoch(1, 0.6)))
    file = tmp_path / "current" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40] if damage == "cut" else b"")
    with pytest.raises(RunError) as caught:
        load_checkpoint(tmp_path, *make(), "f")
    said = str(caught.value)
    assert said.startswith(f"{file} is damaged")
    assert said.endswith(f"; delete {tmp_path} to train anew")
    assert "\n" not in said


def test_one_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *make(), STATE)
    small = nn.Linear(2, 1)
    with pytest.raises(RunError, match="does not fit this model"):
        load_checkpoint(tmp_path, small, {"network": torch.optim.AdamW(small.parameters())}, "f")


def test_no_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *make(), STATE)
    assert {path.suffix for path in (tmp_path / "current").iterdir()} == {".safetensors", ".json"}
    assert json.loads((tmp_path / "current" / "state.json").read_text())["batches_done"] == 1
