"""The gate on real runs: who becomes the champion, who does not and why, and what is left where it was killed."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from pipelines.cli.job import GateRefused
from pipelines.errors import RegistryError
from pipelines.models.artifact import load_model
from tests.end_to_end.promotions import TRAINED, Decisions, Gate, Register, Standing
from tests.support.small_runs import Kill, run_forked


def test_a_better_candidate_becomes_the_champion_once(
    register: Register,
    gate: Gate,
    good: Path,
    bad: Path,
    store: str,
    standing: Standing,
    decisions: Decisions,
    tracking_uri: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = register(bad, "champion")
    register(good, "candidate")
    assert gate(name, "--memories", store, "--dry-run") == 0
    assert f"models:/{name}@champion would be version 2 (before: version 1)." in capsys.readouterr().out
    assert standing(name) == {"champion": "1", "candidate": "2"}
    assert gate(name, "--memories", store) == 0
    said = capsys.readouterr().out
    assert f"models:/{name}@champion is version 2 (before: version 1)." in said
    assert "FAILS" not in said
    assert standing(name) == {"champion": "2", "candidate": "2", "previous": "1"}

    dry, run = decisions(name)
    assert (dry.data.tags["verdict"], dry.data.tags["moved"]) == ("passed", "false")
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert (tags["verdict"], tags["moved"]) == ("passed", "true")
    assert (tags["candidate_version"], tags["champion_version"]) == ("2", "1")
    assert tags["candidate_weights_sha256"] == load_model(good / "model").card.weights_sha256
    assert tags["champion_weights_sha256"] == load_model(bad / "model").card.weights_sha256
    assert len(tags["data_sha256"]) == 64
    kept = json.loads((tmp_path / "out" / "metrics.json").read_text())
    of_training = json.loads((good / "metrics.json").read_text())["test"]
    assert run.data.metrics["auc_candidate"] == pytest.approx(of_training["auc"], abs=1e-6)
    assert run.data.metrics["auc_champion"] == pytest.approx(1 - of_training["auc"], abs=1e-6)
    assert run.data.metrics["auc_gain_low"] == kept["judgement"]["differences"][0]["low"] > 0
    assert run.data.metrics["impressions"] == of_training["impressions"]
    client = mlflow.MlflowClient(tracking_uri)
    files = {entry.path for folder in ("", "figures") for entry in client.list_artifacts(run.info.run_id, folder)}
    assert {"config.yaml", "decision.json", "report.md", "figures/auc_by_model.png"} <= files
    assert "AUC gain, lower end" in (tmp_path / "out" / "report.md").read_text()
    version = client.get_model_version(name, "2")
    assert (version.tags["gate"], version.tags["gate_run"]) == ("passed", run.info.run_id)
    assert version.tags["memory_space"] == load_model(good / "model").card.memory_space

    assert gate(name, "--memories", store) == 0
    assert f"models:/{name}@champion already is version 2, the candidate." in capsys.readouterr().out
    assert len(decisions(name)) == 2


def test_what_training_registered_is_a_candidate(gate: Gate, good: Path, store: str, standing: Standing) -> None:
    with pytest.raises(GateRefused, match=r"^Memories: no store named, must be of space"):
        gate(TRAINED)
    assert gate(TRAINED, "--memories", store, "--baseline", str(good), "--min_gain", "-1", "--dry-run") == 0
    assert standing(TRAINED) == {"candidate": "1"}


def test_the_first_champion_has_to_beat_mean_pool(
    register: Register,
    gate: Gate,
    good: Path,
    store: str,
    standing: Standing,
    decisions: Decisions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = register(good, "candidate")
    with pytest.raises(
        GateRefused, match=r"^AUC gain, lower end of its 95 % interval: \S+ \(gain .*, must be above 0.5$"
    ):
        gate(name, "--memories", store, "--min_gain", "0.5")
    assert standing(name) == {"candidate": "1"}
    (baseline,) = (path for path in (tmp_path / "out").glob("mean_pool-*") if path.is_dir())
    card, ours = load_model(baseline / "model").card, load_model(good / "model").card
    assert card.model.machine.kind == "mean_pool"
    assert (card.model.token_dim, card.features, card.columns) == (ours.model.token_dim, ours.features, ours.columns)
    beaten = json.loads((baseline / "metrics.json").read_text())["test"]
    (run,) = decisions(name)
    assert run.data.metrics["auc_champion"] == pytest.approx(beaten["auc"], abs=1e-6)
    assert run.data.tags["baseline"] == f"baseline {baseline.name}"
    capsys.readouterr()
    assert gate(name, "--memories", store, "--min_gain", "-1") == 0
    said = capsys.readouterr().out
    assert "holds this very run, finished; nothing to do" in said
    assert f"models:/{name}@champion is version 1 (before: none)." in said
    assert standing(name) == {"candidate": "1", "champion": "1"}
    with pytest.raises(RegistryError, match="version 1 is the first champion on record"):
        gate(name, "--rollback")


def test_a_baseline_that_is_given(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Standing
) -> None:
    name = register(good, "candidate")
    given = ("--memories", store, "--baseline", str(bad))
    with pytest.raises(GateRefused, match="it is not known what it was trained on, must be unseen in training"):
        gate(name, *given)
    assert "champion" not in standing(name)
    assert gate(name, *given, "--allow-other-log") == 0
    assert standing(name)["champion"] == "1"
    # The run's folder says what it was trained on: nothing has to be allowed, but nothing is gained.
    again = register(good, "candidate") and name
    mlflow.MlflowClient().delete_registered_model_alias(again, "champion")
    with pytest.raises(
        GateRefused, match=r"^AUC gain, .*: \+0.0000 \(gain \+0.0000, upper end \+0.0000\), must be above 0$"
    ):
        gate(name, "--memories", store, "--baseline", str(good))


def test_rolled_back_it_stays_back_until_it_is_allowed(
    register: Register,
    gate: Gate,
    good: Path,
    bad: Path,
    store: str,
    standing: Standing,
    decisions: Decisions,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = register(bad, "champion")
    register(good, "candidate")
    assert gate(name, "--memories", store) == 0
    assert gate(name, "--rollback", "--dry_run") == 0
    assert f"models:/{name}@champion would be version 1 (before: 2)." in capsys.readouterr().out
    assert standing(name)["champion"] == "2"
    assert gate(name, "--rollback") == 0
    assert f"models:/{name}@champion is version 1 (before: 2)." in capsys.readouterr().out
    assert standing(name) == {"champion": "1", "candidate": "2"}
    back = decisions(name)[-1].data.tags
    assert (back["verdict"], back["rolled_back_from"], back["rolled_back_to"]) == ("rolled back", "2", "1")
    with pytest.raises(RegistryError, match="none to go back to"):
        gate(name, "--rollback")
    with pytest.raises(GateRefused, match=r"^Candidate: rolled back at \S+, must be never rolled back; train another"):
        gate(name, "--memories", store)
    assert standing(name)["champion"] == "1"
    assert gate(name, "--memories", store, "--allow_rolled_back") == 0
    assert standing(name) == {"champion": "2", "candidate": "2", "previous": "1"}


@pytest.mark.parametrize("moment", ["before the alias", "after the alias"])
def test_killed_between_the_decision_and_the_end(
    moment: str,
    register: Register,
    arguments: Callable[..., list[str]],
    good: Path,
    bad: Path,
    store: str,
    standing: Standing,
    decisions: Decisions,
    tmp_path: Path,
) -> None:
    name = register(bad, "champion")
    register(good, "candidate")
    argv = arguments(name, "--memories", store)
    when = "before" if moment == "before the alias" else "after"
    ended = run_forked(
        tmp_path, "pipelines.promote", *argv, kill=Kill("pipelines.registry.model_registry:_set_alias", when=when)
    )
    assert ended.returncode == -9, ended.stderr
    assert standing(name) == {"champion": "1" if when == "before" else "2", "candidate": "2"}
    ended = run_forked(tmp_path, "pipelines.promote", *argv)
    assert ended.returncode == 0, ended.stderr
    assert standing(name) == {"champion": "2", "candidate": "2", "previous": "1"}
    (run,) = decisions(name)
    assert (run.info.status, run.data.tags["moved"]) == ("FINISHED", "true")
    assert len(mlflow.MlflowClient(decided_in(argv)).get_metric_history(run.info.run_id, "auc_gain")) == 1


def decided_in(argv: list[str]) -> str:
    return argv[argv.index("--tracking_uri") + 1]


def test_a_model_with_other_features_sees_the_same_impressions(
    register: Register, gate: Gate, good: Path, store: str, folder: Path, quickstart: Callable[..., list[str]]
) -> None:
    out = folder / "runs" / "fewer-features"
    fewer = ("--data.columns.event_features", "[]", "--training.epochs", "1", "--tracking.register_as", "null")
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, *fewer))
    assert ended.returncode == 0, ended.stderr
    fingerprint = json.loads((out / "prepared" / "manifest.json").read_text())["fingerprint"]
    columns = {"event_features": [], "item_features": ["category_id"]}
    name = register(out, "champion", data_sha256=fingerprint, data={"columns": columns})
    register(good, "candidate")
    assert gate(name, "--memories", store, "--min_gain", "-1") == 0
    before, after = (pq.read_table(Path("out") / f"{role}.parquet") for role in ("champion", "candidate"))
    keys = ["user_id", "item_id", "timestamp", "label"]
    assert before.select(keys).equals(after.select(keys))
    assert not before["prediction"].equals(after["prediction"])
