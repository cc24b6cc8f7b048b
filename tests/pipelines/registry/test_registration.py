"""A model in MLflow: what is kept of it, under which names, and that a kill at any step leaves one of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines.errors import TrackingError
from pipelines.models.model_files import find_model
from pipelines.registry import registration
from pipelines.registry.registration import register
from pipelines.runs.settings import TrackingConfig
from pipelines.runs.tracking import code_version, log_data_set, log_once, tracked_run
from tests.pipelines.registry.served import Served, train

SPLIT = {
    "auc": 0.75,
    "auc_low": None,
    "auc_high": None,
    "grouped_auc": 0.625,
    "logloss": 0.5,
    "impressions": 1234,
    "best_possible_auc": None,
}
METRICS: dict[str, Any] = {
    "validation": SPLIT,
    "test": SPLIT | {"auc": 0.71, "auc_low": 0.7, "auc_high": 0.8, "best_possible_auc": 0.85},
    "best_epoch": 2,
    "epochs": [{}, {}, {}],
    "parameters": 5678,
}
TAGS = {"data_sha256": "d" * 64, "config_sha256": "c" * 64, "fingerprint": "f" * 64}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return train(tmp_path_factory.mktemp("served"))


@pytest.fixture
def run(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str | None]]:
    """Return what keeps a model with the run of the test's folder, as train_ctr does."""
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts
    (tmp_path / "out").mkdir()
    config = TrackingConfig(uri=tracking_uri, experiment=tmp_path.name)

    def keep(served: Served, name: str | None = tmp_path.name, out: str = "out") -> str | None:
        (tmp_path / out).mkdir(exist_ok=True)
        with tracked_run(config, tmp_path / out, {"training": {"epochs": 3}}, TAGS):
            log_data_set("log", TAGS["data_sha256"], {})
            log_once({"test_auc": 0.71, "validation_auc": 0.75, "test_impressions": 1234})
            return register(served.artifact, name, served.data, METRICS, TAGS)

    yield keep
    mlflow.set_tracking_uri(None)


def kept(tracking_uri: str, experiment: str) -> tuple[mlflow.MlflowClient, Any, Any]:
    """Return the one run of an experiment and its one model."""
    client = mlflow.MlflowClient(tracking_uri)
    number = client.get_experiment_by_name(experiment).experiment_id
    (found,) = client.search_runs([number])
    (model,) = client.search_logged_models([number])
    return client, found, client.get_logged_model(model.model_id)


def test_what_is_kept(run: Callable[..., str | None], served: Served, tracking_uri: str, tmp_path: Path) -> None:
    name = tmp_path.name
    assert run(served) == f"models:/{name}/1"
    client, found, model = kept(tracking_uri, name)
    version = client.get_model_version_by_alias(name, "candidate")
    space = served.trained.card.memory_space
    assert space is not None
    lineage = TAGS | {
        "code_version": code_version(),
        "memory_space": space,
        "weights_sha256": served.trained.card.weights_sha256,
        "test_auc": "0.7100",
        "validation_auc": "0.7500",
    }
    assert version.tags == lineage
    assert lineage.items() <= model.tags.items()
    assert version.run_id == found.info.run_id == model.source_run_id
    assert version.source == f"models:/{model.model_id}"
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
    assert model.status == "READY"
    assert {metric.key: metric.value for metric in model.metrics} == found.data.metrics
    assert len(client.get_metric_history(found.info.run_id, "test_auc")) == 1
    for note in (version.description, found.data.tags["mlflow.note.content"], model.tags["mlflow.note.content"]):
        lines = note.replace(" &emsp;", "").splitlines()
        assert (
            lines[0] == "**Test AUC 0.7100**, 95 % interval 0.7000 to 0.8000; chance is 0.5, the best possible 0.8500."
        )
        assert lines[3] == "|" + " --- |" * 7
        assert "| test | 1,234 | 0.7100 | 0.7000 to 0.8000 | 0.6250 | 0.5000 | 0.8500 |" in lines
        assert "| validation | 1,234 | 0.7500 | - | 0.6250 | 0.5000 | - |" in lines
        assert f"space `{space}`" in note
        assert "RM_REC_MEMORIES=memories mlflow models serve" in note
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": name, "version": version.version}]
    assert model.params == found.data.params == {"training.epochs": "3"}
    (used,) = found.inputs.dataset_inputs
    assert {metric.dataset_digest for metric in model.metrics} == {used.dataset.digest}
    assert "candidate" in client.get_registered_model(name).description


def test_it_can_be_fetched_and_loaded_by_name(
    run: Callable[..., str | None], served: Served, tracking_uri: str, tmp_path: Path
) -> None:
    run(served)
    fetched = find_model(f"models:/{tmp_path.name}@candidate", tracking_uri)
    assert (fetched / "artifacts" / "model" / "model.json").is_file() or (fetched / "model.json").is_file()
    mlflow.set_tracking_uri(tracking_uri)
    memories = served.build(tmp_path / "memories")
    model = mlflow.pyfunc.load_model(f"models:/{tmp_path.name}@candidate", model_config={"memories": memories})
    assert len(model.predict(model.input_example)) == 2


def test_without_a_name_it_is_kept_with_the_run_alone(
    run: Callable[..., str | None], served: Served, tracking_uri: str, tmp_path: Path
) -> None:
    assert run(served, None) is None
    client, _, model = kept(tracking_uri, tmp_path.name)
    assert model.status == "READY"
    assert not client.search_model_versions(f"name = '{tmp_path.name}'")


def test_each_run_is_the_next_version(
    run: Callable[..., str | None], served: Served, tracking_uri: str, tmp_path: Path
) -> None:
    name = "it's a model"
    assert run(served, name) == f"models:/{name}/1"
    assert run(served, name) == f"models:/{name}/1"
    assert run(served, name, "other") == f"models:/{name}/2"
    assert mlflow.MlflowClient(tracking_uri).get_model_version_by_alias(name, "candidate").version in (2, "2")
    assert run(served, name) == f"models:/{name}/1"
    assert mlflow.MlflowClient(tracking_uri).get_model_version_by_alias(name, "candidate").version in (1, "1")


STEPS = {
    "before anything": (registration, "_log"),
    "a model without files": (registration, "write_mlflow_model"),
    "files without figures": (registration, "_link_metrics"),
    "not of the run": (mlflow.MlflowClient, "log_outputs"),
    "not finished": (mlflow.MlflowClient, "finalize_logged_model"),
    "not registered": (registration, "_create_registered_model"),
    "a name without a version": (mlflow.MlflowClient, "create_model_version"),
    "without an alias": (mlflow.MlflowClient, "set_registered_model_alias"),
}


def test_killed_at_any_step_it_is_kept_once(
    run: Callable[..., str | None], served: Served, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path.name
    for step, (where, function) in STEPS.items():

        def killed(*arguments: object, step: str = step, **named: object) -> None:
            raise KeyboardInterrupt(step)

        with monkeypatch.context() as during:
            during.setattr(where, function, killed)
            with pytest.raises(KeyboardInterrupt, match=step):
                run(served)
    assert run(served) == f"models:/{name}/1"
    with monkeypatch.context() as after:
        after.delattr(registration, "write_mlflow_model")  # what is finished is not done again
        assert run(served) == f"models:/{name}/1"
    client, found, model = kept(tracking_uri, name)
    assert model.status == "READY"
    assert {metric.key: metric.value for metric in model.metrics} == found.data.metrics
    assert len(found.outputs.model_outputs) == 1
    assert len(client.get_metric_history(found.info.run_id, "test_auc")) == 1
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == found.info.run_id
    assert (Path(client.download_artifacts(found.info.run_id, "model", str(tmp_path))) / "MLmodel").is_file()


def test_a_name_that_mlflow_refuses_is_one_line(run: Callable[..., str | None], served: Served) -> None:
    with pytest.raises(TrackingError) as caught:
        run(served, "a/b")
    assert str(caught.value).startswith("tracking.register_as 'a/b': MLflow refuses it: ")
    assert "\n" not in str(caught.value)


def test_a_model_without_memories_says_so(run: Callable[..., str | None], tracking_uri: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", machine="none", window={"kind": "whole_history"})
    run(whole)
    _, found, model = kept(tracking_uri, tmp_path.name)
    assert model.tags["memory_space"] == "none"
    assert "no memories to be served from" in found.data.tags["mlflow.note.content"]
