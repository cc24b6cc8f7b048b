"""Training that goes on from a model: with its writer frozen, memories that were built stay valid."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from small_runs import run_forked

from pipelines.artifact import TrainedModel, load_model

NAME = "to-be-tuned"


@pytest.fixture(scope="module")
def base(folder: Path, quickstart: Callable[..., list[str]], tracking_uri: str) -> Path:
    out = folder / "runs" / "base"
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, "--tracking.register_as", NAME))
    assert ended.returncode == 0, ended.stderr
    mlflow.MlflowClient(tracking_uri).set_registered_model_alias(NAME, "champion", "1")
    return out


def tune(
    folder: Path, quickstart: Callable[..., list[str]], out: str, *settings: object, start: object
) -> tuple[int, str, Path]:
    """Train one epoch more, without the base's model settings."""
    given = [
        str(part) for part in quickstart(folder / "runs" / out, "--training.epochs", 1, "--from", start, *settings)
    ]
    kept = [
        part
        for place, part in enumerate(given)
        if not part.startswith("--model.") and not (place and given[place - 1].startswith("--model."))
    ]
    ended = run_forked(folder, "pipelines.train_ctr", *kept)
    return ended.returncode, ended.stderr, folder / "runs" / out


def weights(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return dict(trained.model.named_parameters())


def test_a_frozen_writer_keeps_space_and_states_and_changes_the_scores(
    folder: Path, quickstart: Callable[..., list[str]], base: Path
) -> None:
    code, stderr, out = tune(folder, quickstart, "tuned", "--freeze-writer", start=f"models:/{NAME}@champion")
    assert code == 0, stderr
    before, after = load_model(base / "model"), load_model(out / "model")
    assert before.card.memory_space == after.card.memory_space
    assert before.card.model == after.card.model
    writing = before.model.writing_weights().keys()
    changed = {n for n, w in weights(before).items() if not torch.equal(w, weights(after)[n])}
    assert changed
    assert not changed & writing
    assert any(name.startswith("memory.reader.") for name in changed)
    assert any(name.startswith("head.") for name in changed)
    scores = [pq.read_table(run / "predictions.parquet")["prediction"] for run in (base, out)]
    assert not pc.all(pc.equal(*scores)).as_py()
    assert (
        "rehearsal" not in json.loads((out / "metrics.json").read_text())["epochs"][0]
        or not (json.loads((out / "metrics.json").read_text())["epochs"][0]["rehearsal"])
    )

    memories = ("--memories", "kept")
    log = quickstart(folder)[quickstart(folder).index("--data.log") + 1]
    built = run_forked(folder, "pipelines.build_memory", "--model", base, *memories, "--log", log, "--out", "b")
    assert built.returncode == 0, built.stderr
    pq.write_table(pq.read_table(log, columns=["user_id", "item_id"]).slice(0, 50), folder / "candidates.parquet")
    answers = []
    for number, run in enumerate((base, out)):
        scored = run_forked(
            folder, "pipelines.score_batch", "--model", run, *memories, "--candidates", "candidates.parquet",
            "--out", f"scores-{number}.parquet",
        )  # fmt: skip
        assert scored.returncode == 0, scored.stderr
        answers.append(pq.read_table(folder / f"scores-{number}.parquet")["prediction"])
    assert not pc.any(pc.equal(*answers)).as_py()
    again = run_forked(folder, "pipelines.build_memory", "--model", out, *memories, "--log", log, "--out", "b")
    assert "nothing to do" in again.stdout


def test_without_freezing_all_is_trained_and_memories_are_built_anew(
    folder: Path, quickstart: Callable[..., list[str]], base: Path
) -> None:
    code, stderr, out = tune(folder, quickstart, "warm", start=base)
    assert code == 0, stderr
    before, after = load_model(base / "model"), load_model(out / "model")
    assert before.card.memory_space != after.card.memory_space
    first = [json.loads((run / "metrics.json").read_text())["epochs"][0]["loss"] for run in (base, out)]
    assert first[1] < first[0]  # it began where the other ended


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--model.token_dim", 4), "its settings are not those of `model` here"),
        (("--data.columns.event_features", "[]"), "reads other features than"),
        (("--from", "nowhere"), "nowhere is not a model"),
        (("--from", "models:/nobody@champion"), "models:/nobody@champion: MLflow at"),
        (("--from", "null", "--freeze-writer"), "there is nothing to freeze"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    settings: tuple[object, ...], said: str, folder: Path, quickstart: Callable[..., list[str]], base: Path
) -> None:
    given = quickstart(folder / "runs" / "refused", "--from", base, *settings)
    names = [place for place, part in enumerate(given) if str(part).startswith("--model.")]
    if "--model.token_dim" not in settings:
        given = [part for place, part in enumerate(given) if not {place, place - 1} & set(names)]
    ended = run_forked(folder, "pipelines.train_ctr", *given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
