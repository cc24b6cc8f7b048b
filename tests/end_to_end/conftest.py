"""A small log, the arguments of a small training run on them, and models to choose between."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow.entities import Run

from pipelines import build_memory, make_log, promote
from pipelines.models.artifact import load_model, save_model
from tests.end_to_end.promotions import TRAINED, Decisions, Gate, Register, Standing
from tests.support.small_runs import RECIPES, SMALL_LOG, SMALL_MODEL, run_forked


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that commands are run in."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def log(folder: Path) -> Path:
    """Make the small log once."""
    path = folder / "data" / "log.parquet"
    assert make_log.main(["--out", str(path), *SMALL_LOG]) == 0
    return path


@pytest.fixture(scope="session")
def quickstart(log: Path, tracking_uri: str) -> Callable[..., list[str]]:
    """Return the arguments of a small training run: `quickstart(out, "--training.epochs", "1")`."""

    def arguments(out: Path, *more: str, recipes: Sequence[str] = ("quickstart.yaml",)) -> list[str]:
        files = [part for name in recipes for part in ("--config", str(RECIPES / name))]
        small = [*SMALL_MODEL, "--training.epochs", "2", "--tracking.uri", tracking_uri]
        return [*files, "--data.log", str(log), "--out", str(out), *small, *more]

    return arguments


@pytest.fixture(scope="session")
def trained(folder: Path, quickstart: Callable[..., list[str]]) -> Path:
    """Train one small model, registered as to-evaluate, and return the folder of its run."""
    out = folder / "runs" / "to-evaluate"
    named = ("--tracking.experiment", "to-evaluate", "--tracking.register_as", "to-evaluate")
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, "--training.epochs", "1", *named))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="session")
def good(folder: Path, quickstart: Callable[..., list[str]]) -> Path:
    """Train and register a small model, as a user does."""
    out = folder / "runs" / "good"
    named = ("--tracking.register_as", TRAINED, "--training.epochs", "6")
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, *named))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="session")
def bad(good: Path, folder: Path) -> Path:
    """Turn the model's answers round: it prefers what it should not."""
    trained = load_model(good / "model")
    *_, last = [layer for layer in trained.model.head.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        last.weight.neg_()
    columns, impressions = trained.card.columns, trained.card.impressions
    save_model(folder / "bad" / "model", trained.model, trained.vocabularies, columns, impressions)
    return folder / "bad"


@pytest.fixture(scope="session")
def store(good: Path, folder: Path, log: Path, tracking_uri: str) -> str:
    """Build the memories of the good model, which the bad one shares: heads do not write."""
    out = ["--out", str(folder / "runs" / "build"), "--threads", "1"]
    assert (
        build_memory.main(["--model", str(good), "--memories", str(folder / "memories"), "--log", str(log), *out]) == 0
    )
    return str(folder / "memories")


@pytest.fixture
def register(tracking_uri: str, good: Path, request: pytest.FixtureRequest) -> Register:
    """Register a model's folder as the training run of the good one would, in this test's registered model."""
    name = request.node.name.replace("/", "-")
    client = mlflow.MlflowClient(tracking_uri)
    (found,) = client.search_model_versions(f"name = '{TRAINED}'")
    trained = client.get_run(found.run_id)
    settings = yaml.safe_load(Path(client.download_artifacts(found.run_id, "config.yaml")).read_text())
    settings["training"]["epochs"] = 1  # for a baseline that is trained alike

    def version(folder: Path, alias: str, *, data: dict[str, Any] | None = None, **tags: str) -> str:
        tags = {"data_sha256": trained.data.tags["data_sha256"], **tags}
        run = client.create_run(trained.info.experiment_id, tags=tags)
        client.log_artifacts(run.info.run_id, str(folder / "model"), "model")
        client.log_dict(run.info.run_id, settings | {"data": settings["data"] | (data or {})}, "config.yaml")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        client.set_registered_model_alias(name, alias, made.version)
        return name

    return version


@pytest.fixture
def arguments(log: Path, tracking_uri: str, tmp_path: Path) -> Callable[..., list[str]]:
    def of(name: str, *more: str) -> list[str]:
        common = ["--name", name, "--tracking_uri", tracking_uri, "--out", str(tmp_path / "out"), "--threads", "1"]
        # Of so few impressions calibration is chance.
        common += ["--resamples", "100", "--max_calibration_loss", "1", "--max_ratio_loss", "9"]
        return [*common, *(() if "--rollback" in more else ("--log", str(log))), *more]

    return of


@pytest.fixture
def gate(arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    monkeypatch.chdir(tmp_path)
    yield lambda name, *more: promote.main(arguments(name, *more))
    mlflow.set_tracking_uri(None)


@pytest.fixture
def standing(tracking_uri: str) -> Standing:
    def of(name: str) -> dict[str, str]:
        aliases = mlflow.MlflowClient(tracking_uri).get_registered_model(name).aliases
        return {alias: str(number) for alias, number in aliases.items()}

    return of


@pytest.fixture
def decisions(tracking_uri: str) -> Decisions:
    """Find the runs that MLflow keeps of a model's promotions, oldest first."""
    client = mlflow.MlflowClient(tracking_uri)

    def of(name: str) -> list[Run]:
        experiment = client.get_experiment_by_name("promotions")
        found = client.search_runs(
            [experiment.experiment_id], f"tags.model_name = '{name}'", order_by=["attributes.start_time"]
        )
        return list(found)

    return of
