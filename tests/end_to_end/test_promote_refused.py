"""Who does not become the champion: each reason is named, exits as it should, and moves nothing."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import torch

from feature_store.errors import DataError
from feature_store.stores import create_store, open_store
from pipelines import promote
from pipelines.cli.job import GateRefused
from pipelines.errors import ModelError, RegistryError, SettingsError, TrackingError
from pipelines.models.artifact import load_model, save_model
from tests.end_to_end.promotions import Decisions, Gate, Register, Standing
from tests.support.small_runs import run_forked


def test_a_worse_candidate_is_refused_with_the_numbers_that_missed(
    register: Register,
    arguments: Callable[..., list[str]],
    good: Path,
    bad: Path,
    store: str,
    standing: Standing,
    decisions: Decisions,
    tmp_path: Path,
) -> None:
    name = register(good, "champion")
    register(bad, "candidate")
    ended = run_forked(tmp_path, "pipelines.promote", *arguments(name, "--memories", store))
    assert ended.returncode == 3, ended.stderr
    assert "FAILS" in ended.stdout
    refused = [line for line in ended.stderr.splitlines() if line.startswith("refused: ")]
    assert refused[0].startswith("refused: AUC gain, lower end of its 95 % interval: -0.")
    assert refused[0].endswith(", must be above 0")
    assert standing(name) == {"champion": "1", "candidate": "2"}
    (run,) = decisions(name)
    assert (run.info.status, run.data.tags["verdict"], run.data.tags["moved"]) == ("FINISHED", "refused", "false")
    assert "AUC gain" in run.data.tags["refused_by"]


def test_a_champion_needs_memories_of_its_space(
    register: Register,
    gate: Gate,
    good: Path,
    bad: Path,
    log: Path,
    standing: Standing,
    decisions: Decisions,
    tmp_path: Path,
) -> None:
    name = register(bad, "champion")
    register(good, "candidate")
    space = load_model(good / "model").card.memory_space
    with pytest.raises(GateRefused) as caught:
        gate(name)
    assert str(caught.value).startswith(f"Memories: no store named, must be of space {space}; build them, ")
    command = f"-m pipelines.build_memory --model models:/{name}/2 --memories memories-{space[:8]} --log {log}"
    assert str(caught.value).endswith(command)
    with pytest.raises(GateRefused, match=f"Memories: nothing at {tmp_path}/none, .* --memories {tmp_path}/none --log"):
        gate(name, "--memories", str(tmp_path / "none"))
    assert standing(name)["champion"] == "1"
    assert not (tmp_path / "out" / "prepared").exists()  # nothing is scored for what is refused anyhow
    run = decisions(name)[-1]
    assert (run.data.tags["verdict"], run.data.tags["refused_by"]) == ("refused", "Memories")
    with pytest.raises(DataError, match="is not the address of a store"):
        gate(name, "--memories", "nonsense://x")
    assert gate(name, "--allow-unbuilt") == 0
    assert standing(name)["champion"] == "2"


def test_memories_of_another_space_or_unfinished_are_none(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, folder: Path, tmp_path: Path
) -> None:
    trained = load_model(good / "model")
    with torch.no_grad():
        trained.model.embedding.state_dict()  # what writes: another space
        for weight in trained.model.embedding.parameters():
            weight.add_(0.01)
    columns, impressions = trained.card.columns, trained.card.impressions
    save_model(tmp_path / "moved" / "model", trained.model, trained.vocabularies, columns, impressions)
    name = register(bad, "champion")
    register(tmp_path / "moved", "candidate")
    space = load_model(good / "model").card.memory_space
    with pytest.raises(
        GateRefused, match=f"Memories: .*memories has memories of space {space}, must be of space (?!{space})"
    ):
        gate(name, "--memories", store)
    facts = open_store(store).facts
    create_store(str(tmp_path / "begun"), facts).close()
    register(good, "candidate")
    with pytest.raises(GateRefused, match="begun: its first build is not finished"):
        gate(name, "--memories", str(tmp_path / "begun"))


def test_a_model_of_another_log_or_split_may_know_the_answers(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Standing
) -> None:
    name = register(bad, "champion", data_sha256="0" * 64)
    register(good, "candidate")
    with pytest.raises(GateRefused) as caught:
        gate(name, "--memories", store)
    found = str(caught.value)
    assert found.startswith("Held-out impressions, version 1: trained on another log: data_sha256 000000000000, this")
    assert "it may have been trained on some of them" in found
    register(bad, "champion", data={"split": {"kind": "user"}})
    with pytest.raises(
        GateRefused, match=r"^Held-out impressions, version 3: trained with another data\.split than the"
    ):
        gate(name, "--memories", store)
    assert standing(name)["champion"] == "3"
    assert gate(name, "--memories", store, "--allow-other-log") == 0
    register(good, "candidate", data_sha256="0" * 64)
    register(bad, "champion")
    with pytest.raises(GateRefused, match="Held-out impressions, version 4: trained on another log"):
        gate(name, "--memories", store)


def test_a_model_that_went_on_from_another_knows_what_that_knew(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Standing
) -> None:
    name = register(bad, "champion")
    register(good, "candidate", started_from_sha256="1" * 64)
    with pytest.raises(
        GateRefused, match=r"version 2: it was trained further from another model \(weights 111111111111\), whose log"
    ):
        gate(name, "--memories", store)
    # Its start is the champion, which was trained on this very log.
    register(good, "candidate", started_from_sha256=load_model(bad / "model").card.weights_sha256)
    assert gate(name, "--memories", store) == 0
    assert standing(name)["champion"] == "3"


def test_mistakes_are_named(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, log: Path, tracking_uri: str, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match=r"model .none.: MLflow at sqlite.*not found"):
        gate("none")
    name = register(good, "other")
    with pytest.raises(RegistryError, match="no version has the alias candidate; train one with train_ctr"):
        gate(name)
    with pytest.raises(RegistryError, match="no version has the alias champion, so there is nothing to roll back"):
        gate(name, "--rollback")
    with pytest.raises(SettingsError, match="log: required, except with --rollback"):
        promote.main(["--name", name])
    with pytest.raises(SettingsError, match="split = 'train'"):
        gate(name, "--split", "train")
    register(good, "candidate")
    with pytest.raises(DataError, match=r"nowhere\.parquet: no such file or folder"):
        gate(name, "--memories", store, "--log", str(tmp_path / "nowhere.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"broken\.parquet: not a Parquet file"):
        gate(name, "--memories", store, "--log", str(tmp_path / "broken.parquet"))
    register(bad, "champion", data={"impressions": {"kind": "next_event"}})
    few = pq.read_table(log).slice(0, 3)
    pq.write_table(few, tmp_path / "few.parquet")
    other = ("--memories", store, "--allow-other-log")
    with pytest.raises(DataError, match=r"no impression falls in the test split|no AUC exists"):
        gate(name, *other, "--log", str(tmp_path / "few.parquet"))
    client = mlflow.MlflowClient(tracking_uri)
    (tmp_path / "empty").mkdir()
    made = client.create_model_version(name, str(tmp_path / "empty"), None)
    client.set_registered_model_alias(name, "candidate", made.version)
    with pytest.raises(ModelError, match=rf"models:/{name}/\d+ cannot be used: .*is not a model"):
        gate(name, "--memories", store)
    made = client.create_model_version(name, str(good / "model"), None)
    client.set_registered_model_alias(name, "candidate", made.version)
    with pytest.raises(RegistryError, match=r"version \d+: MLflow has no config of the run that trained it"):
        gate(name, "--memories", store)
