"""Training that goes on from a model: with its writer frozen, memories that were built stay valid."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.models.artifact import TrainedModel, load_model
from tests.support.small_runs import run_forked

NAME = "to-be-tuned"


@pytest.fixture(scope="module")
def base(folder: Path, quickstart: Callable[..., list[str]], tracking_uri: str) -> Path:
    out = folder / "runs" / "base"
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, "--tracking.register_as", NAME))
    assert ended.returncode == 0, ended.stderr
    mlflow.MlflowClient(tracking_uri).set_registered_model_alias(NAME, "champion", "1")
    return out


def without_model_settings(arguments: list[str]) -> list[str]:
    """Leave `--model.… value` out: a model that is trained further keeps its own."""
    taken = {place for place, part in enumerate(arguments) if part.startswith("--model.")}
    return [part for place, part in enumerate(arguments) if not {place, place - 1} & taken]


@pytest.fixture(scope="module")
def tune(folder: Path, quickstart: Callable[..., list[str]]) -> Callable[..., Path]:
    """Train for an epoch from a model: `tune(out, start, *settings)`."""

    def tuned(out: str, start: object, *settings: str) -> Path:
        one_epoch = ("--training.epochs", "1", "--from", str(start), *settings)
        given = without_model_settings(quickstart(folder / "runs" / out, *one_epoch))
        ended = run_forked(folder, "pipelines.train_ctr", *given)
        assert ended.returncode == 0, ended.stderr
        return folder / "runs" / out

    return tuned


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return dict(trained.model.named_parameters())


def test_a_frozen_writer_keeps_space_and_states_and_changes_the_scores(
    folder: Path, log: Path, base: Path, tune: Callable[..., Path]
) -> None:
    out = tune("tuned", f"models:/{NAME}@champion", "--freeze-writer")
    before, after = load_model(base / "model"), load_model(out / "model")
    assert before.card.memory_space == after.card.memory_space
    assert before.card.model == after.card.model
    changed = {name for name, weight in weights(before).items() if not torch.equal(weight, weights(after)[name])}
    assert not changed & before.model.writing_weights().keys()
    assert any(name.startswith("memory.slots.reader.") for name in changed)
    assert any(name.startswith("head.") for name in changed)
    assert not json.loads((out / "metrics.json").read_text())["epochs"][0]["rehearsal"]

    store = ("--memories", "kept")
    built = run_forked(folder, "pipelines.build_memory", "--model", base, *store, "--log", log, "--out", "built")
    assert built.returncode == 0, built.stderr
    pq.write_table(pq.read_table(log, columns=["user_id", "item_id"]).slice(0, 50), folder / "candidates.parquet")
    answers = []
    for number, run in enumerate((base, out)):
        scores = folder / f"scores-{number}.parquet"
        asked = ("--candidates", "candidates.parquet", "--out", scores)
        scored = run_forked(folder, "pipelines.score_batch", "--model", run, *store, *asked)
        assert scored.returncode == 0, scored.stderr
        answers.append(pq.read_table(scores)["prediction"])
    assert not pc.any(pc.equal(*answers)).as_py()
    again = run_forked(folder, "pipelines.build_memory", "--model", out, *store, "--log", log, "--out", "built")
    assert "nothing to do" in again.stdout


def test_without_freezing_all_is_trained_and_memories_are_built_anew(base: Path, tune: Callable[..., Path]) -> None:
    out = tune("warm", base)
    assert load_model(base / "model").card.memory_space != load_model(out / "model").card.memory_space
    cold, warm = (json.loads((run / "metrics.json").read_text())["epochs"][0]["loss"] for run in (base, out))
    assert warm < cold  # it began where the other ended


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--model.token_dim", "4"), "its settings are not those of `model` here"),
        (("--data.columns.event_features", "[]"), "reads other features than"),
        (("--from", "nowhere"), "nowhere is not a model"),
        (("--from", "models:/nobody@champion"), "models:/nobody@champion: MLflow at"),
        (("--from", "null", "--freeze-writer"), "there is nothing to freeze"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    settings: tuple[str, ...], said: str, folder: Path, quickstart: Callable[..., list[str]], base: Path
) -> None:
    given = without_model_settings(quickstart(folder / "runs" / "refused", "--from", str(base)))
    ended = run_forked(folder, "pipelines.train_ctr", *given, *settings)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
