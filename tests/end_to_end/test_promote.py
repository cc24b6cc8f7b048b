"""The gate on real runs: who becomes the champion, who does not and why, and what is left where it was killed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from mlflow.entities import Run
from small_runs import Kill, run_forked

from feature_store.errors import DataError
from pipelines import build_memory, promote
from pipelines.artifact import load_model, save_model
from pipelines.job import GateRefused
from pipelines.settings import SettingsError

TRAINED = "trained-for-promotion"
Register = Callable[..., str]
Gate = Callable[..., int]


@pytest.fixture(scope="module")
def good(folder: Path, quickstart: Callable[..., list[str]]) -> Path:
    """Train and register a small model, as a user does."""
    out = folder / "runs" / "good"
    named = ("--tracking.register_as", TRAINED, "--training.epochs", "6")
    ended = run_forked(folder, "pipelines.train_ctr", *quickstart(out, *named))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def bad(good: Path, folder: Path) -> Path:
    """Turn the model's answers round: it prefers what it should not."""
    trained = load_model(good / "model")
    *_, last = [layer for layer in trained.model.head.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        last.weight.neg_()
    columns, impressions = trained.card.columns, trained.card.impressions
    save_model(folder / "bad" / "model", trained.model, trained.vocabularies, columns, impressions)
    return folder / "bad"


@pytest.fixture(scope="module")
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
def standing(tracking_uri: str) -> Callable[[str], dict[str, str]]:
    def of(name: str) -> dict[str, str]:
        aliases = mlflow.MlflowClient(tracking_uri).get_registered_model(name).aliases
        return {alias: str(number) for alias, number in aliases.items()}

    return of


@pytest.fixture
def decisions(tracking_uri: str) -> Callable[[str], list[Run]]:
    """Find the runs that MLflow keeps of a model's promotions, oldest first."""
    client = mlflow.MlflowClient(tracking_uri)

    def of(name: str) -> list[Run]:
        experiment = client.get_experiment_by_name("promotions")
        found = client.search_runs(
            [experiment.experiment_id], f"tags.model_name = '{name}'", order_by=["attributes.start_time"]
        )
        return list(found)

    return of


def test_a_better_candidate_becomes_the_champion_once(
    register: Register,
    gate: Gate,
    good: Path,
    bad: Path,
    store: str,
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
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
    assert "DeLong" in said
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
    assert f"models:/{name}@champion is version 2, the candidate, already." in capsys.readouterr().out
    assert len(decisions(name)) == 2


def test_a_worse_candidate_is_refused_with_the_numbers_that_missed(
    register: Register,
    arguments: Callable[..., list[str]],
    good: Path,
    bad: Path,
    store: str,
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
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


def test_the_first_champion_has_to_beat_mean_pool(
    gate: Gate,
    good: Path,
    store: str,
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        GateRefused, match=r"^AUC gain, lower end of its 95 % interval: \S+ \(gain .*, must be above 0.5$"
    ):
        gate(TRAINED, "--memories", store, "--min_gain", "0.5")
    assert standing(TRAINED) == {"candidate": "1"}
    (baseline,) = (path for path in (tmp_path / "out").glob("mean_pool-*") if path.is_dir())
    card, ours = load_model(baseline / "model").card, load_model(good / "model").card
    assert card.model.machine.kind == "mean_pool"
    assert (card.model.token_dim, card.features, card.columns) == (ours.model.token_dim, ours.features, ours.columns)
    beaten = json.loads((baseline / "metrics.json").read_text())["test"]
    (run,) = decisions(TRAINED)
    assert run.data.metrics["auc_champion"] == pytest.approx(beaten["auc"], abs=1e-6)
    assert run.data.tags["baseline"] == f"baseline {baseline.name}"
    capsys.readouterr()
    assert gate(TRAINED, "--memories", store, "--min_gain", "-1") == 0
    said = capsys.readouterr().out
    assert "holds this very run, finished; nothing to do" in said
    assert f"models:/{TRAINED}@champion is version 1 (before: none)." in said
    assert standing(TRAINED) == {"candidate": "1", "champion": "1"}
    with pytest.raises(DataError, match="version 1 is the first champion on record"):
        gate(TRAINED, "--rollback")


def test_a_baseline_that_is_given(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Callable[[str], dict[str, str]]
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
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
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
    with pytest.raises(DataError, match="none to go back to"):
        gate(name, "--rollback")
    with pytest.raises(GateRefused, match=r"^Candidate: rolled back at \S+, must be never rolled back; train another"):
        gate(name, "--memories", store)
    assert standing(name)["champion"] == "1"
    assert gate(name, "--memories", store, "--allow_rolled_back") == 0
    assert standing(name) == {"champion": "2", "candidate": "2", "previous": "1"}


def test_a_champion_needs_memories_of_its_space(
    register: Register,
    gate: Gate,
    good: Path,
    bad: Path,
    log: Path,
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
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
    with pytest.raises(DataError, match="no store of memories"):
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
        GateRefused, match=f"Memories: .*memories has those of space {space}, must be of space (?!{space})"
    ):
        gate(name, "--memories", store)
    facts = build_memory.open_store(store).facts
    build_memory.create_store(str(tmp_path / "begun"), facts).close()
    register(good, "candidate")
    with pytest.raises(GateRefused, match="begun: its first build is not finished"):
        gate(name, "--memories", str(tmp_path / "begun"))


def test_a_model_of_another_log_or_split_may_know_the_answers(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Callable[[str], dict[str, str]]
) -> None:
    name = register(bad, "champion", data_sha256="0" * 64)
    register(good, "candidate")
    with pytest.raises(GateRefused) as caught:
        gate(name, "--memories", store)
    found = str(caught.value)
    assert found.startswith("Held-out impressions, version 1: trained on another log: data_sha256 000000000000, this")
    assert "a model that was trained on some of them knows the answers" in found
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
    register: Register, gate: Gate, good: Path, bad: Path, store: str, standing: Callable[[str], dict[str, str]]
) -> None:
    name = register(bad, "champion")
    register(good, "candidate", started_from_sha256="1" * 64)
    with pytest.raises(
        GateRefused, match=r"version 2: it went on from another model \(weights 111111111111\), whose log"
    ):
        gate(name, "--memories", store)
    # Its start is the champion, which was trained on this very log.
    register(good, "candidate", started_from_sha256=load_model(bad / "model").card.weights_sha256)
    assert gate(name, "--memories", store) == 0
    assert standing(name)["champion"] == "3"


@pytest.mark.parametrize("moment", ["before the alias", "after the alias"])
def test_killed_between_the_decision_and_the_end(
    moment: str,
    register: Register,
    arguments: Callable[..., list[str]],
    good: Path,
    bad: Path,
    store: str,
    standing: Callable[[str], dict[str, str]],
    decisions: Callable[[str], list[Run]],
    tmp_path: Path,
) -> None:
    name = register(bad, "champion")
    register(good, "candidate")
    argv = arguments(name, "--memories", store)
    when = "before" if moment == "before the alias" else "after"
    ended = run_forked(tmp_path, "pipelines.promote", *argv, kill=Kill("pipelines.registry:_set_alias", when=when))
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


def test_mistakes_are_named(
    register: Register, gate: Gate, good: Path, bad: Path, store: str, log: Path, tracking_uri: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"model .none.: MLflow at sqlite.*not found"):
        gate("none")
    name = register(good, "other")
    with pytest.raises(DataError, match="no version has the alias candidate; train one with train_ctr"):
        gate(name)
    with pytest.raises(DataError, match="no version has the alias champion, so there is nothing to roll back"):
        gate(name, "--rollback")
    with pytest.raises(SettingsError, match="log: required, but for --rollback"):
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
    with pytest.raises(DataError, match=rf"models:/{name}/\d+ cannot be used: .*is not a model"):
        gate(name, "--memories", store)
    made = client.create_model_version(name, str(good / "model"), None)
    client.set_registered_model_alias(name, "candidate", made.version)
    with pytest.raises(DataError, match=r"version \d+: MLflow has no config of the run that trained it"):
        gate(name, "--memories", store)
