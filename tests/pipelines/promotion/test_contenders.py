"""Two models are asked about the same impressions, each by its own vocabulary, or it is said why they cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from feature_store.data_config import Columns, DataConfig, ImpressionFile, LabelColumn
from feature_store.logs.preparation import prepare
from feature_store.vocabulary.vocabularies import Vocabularies
from pipelines.errors import ModelError, RegistryError
from pipelines.models.artifact import save_model
from pipelines.promotion.contenders import Contender, on_log, score_both, train_mean_pool
from pipelines.training.batches import feature_space
from rm_rec.config import ModelConfig
from rm_rec.model import ClickModel

KEYS = ["user_id", "item_id", "timestamp", "label"]


def silent(line: str) -> None:
    """Report to nobody."""


def log(folder: Path, items: int, seed: int = 0) -> str:
    draw = np.random.default_rng(seed)
    columns = {"user_id": np.repeat(np.arange(8), 30), "item_id": draw.integers(0, items, 240), "timestamp": range(240)}
    table = pa.table(columns | {"action": draw.integers(0, 3, 240), "place": draw.integers(0, 2, 240)})
    path = folder / f"{items}-{seed}.parquet"
    pq.write_table(table.append_column("label", pa.array(draw.integers(0, 2, 240))), path)
    return str(path)


def contender(folder: Path, name: str, config: DataConfig, seed: int = 0) -> Contender:
    prepared = prepare(config, folder / f"{name}-log", notify=silent)
    vocabularies = Vocabularies.fit(prepared, config)
    torch.manual_seed(seed)
    space = feature_space(config.columns, config.impressions, vocabularies)
    model = ClickModel(ModelConfig(token_dim=8, segment_length=8), space)
    trained = save_model(folder / name, model, vocabularies, config.columns, config.impressions)
    trained.model.eval()
    return Contender(name, trained, config, prepared.manifest.fingerprint)


def both(folder: Path, champion: Contender, candidate: Contender, data: DataConfig) -> tuple[pa.Table, pa.Table]:
    out = folder / "out"
    out.mkdir()
    return score_both(champion, candidate, data, "test", out, silent)


def test_sampled_negatives_are_the_candidates_for_both(tmp_path: Path) -> None:
    new = DataConfig(log=log(tmp_path, items=20))
    old = DataConfig(log=log(tmp_path, items=9, seed=1))
    candidate, champion = contender(tmp_path, "candidate", new), contender(tmp_path, "champion", old, seed=1)
    before, after = both(tmp_path, champion, candidate, new)
    assert before.select(KEYS).equals(after.select(KEYS))
    assert max(before["item_id"].to_pylist()) >= 9  # which the champion never saw
    assert not before["prediction"].equals(after["prediction"])
    # A rival that is the candidate itself answers the same.
    (tmp_path / "again").mkdir()
    same, ours = both(tmp_path / "again", candidate, candidate, new)
    assert same.equals(ours)
    assert ours.equals(after)


def test_each_model_reads_its_own_features(tmp_path: Path) -> None:
    path = log(tmp_path, items=9)
    plain = DataConfig(log=path, impressions=LabelColumn(carry=("label",)))
    rich = DataConfig(
        log=path,
        columns=Columns(event_features=("action",)),
        impressions=LabelColumn(context_features=("place",), context_dense=("action",)),
    )
    one, other = contender(tmp_path, "one", plain), contender(tmp_path, "other", rich)
    before, after = both(tmp_path, one, other, rich)
    assert before.select(KEYS).equals(after.select(KEYS))
    (tmp_path / "turned").mkdir()
    after_again, before_again = both(tmp_path / "turned", other, one, plain)
    assert after_again["prediction"].equals(after["prediction"])
    assert before_again["prediction"].equals(before["prediction"])
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"champion.parquet", "candidate.parquet"}


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    path = log(tmp_path, items=9)
    next_event, labelled = DataConfig(log=path), DataConfig(log=path, impressions=LabelColumn())
    one, other = contender(tmp_path, "one", next_event), contender(tmp_path, "other", labelled)
    with pytest.raises(ModelError, match="one predicts impressions of kind next_event, the candidate of kind label"):
        both(tmp_path, one, other, labelled)
    unknown = Contender("version 7", one.trained, None, None)
    with pytest.raises(RegistryError, match="version 7: MLflow has no config of the run that trained it"):
        unknown.data_on(path, None)


def test_a_baseline_is_trained_from_nothing_with_the_candidates_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(log=log(tmp_path, items=9))
    candidate = contender(tmp_path, "candidate", data)
    own = {"data": {"log": "elsewhere"}, "from": "models:/a@champion", "freeze_writer": True, "optimizer": {"lr": 0.25}}
    own |= {"allow_package": ["the_candidates"]}
    own |= {"tracking": {"uri": "there", "experiment": "e", "register_as": "a"}, "retention": {"enabled": True}}
    asked: list[list[str]] = []

    def train(argv: list[str]) -> int:
        asked.append(argv)
        trained = candidate.trained
        folder = Path(argv[-1]) / "model"
        save_model(folder, trained.model, trained.vocabularies, trained.card.columns, trained.card.impressions)
        return 0

    monkeypatch.setattr("pipelines.train_ctr.main", train)
    for lr in (0.25, 0.25, 0.5):
        settings = own | {"optimizer": {"lr": lr}}
        found = train_mean_pool(replace(candidate, settings=settings), data, tmp_path, "here", silent, ("ours",))
        assert found.name.startswith("baseline mean_pool-")
    ours, mean_pool = (yaml.safe_load(Path(file).read_text()) for file in asked[0][1:4:2])
    assert ours == {
        "data": data.model_dump(mode="json"),
        "optimizer": {"lr": 0.25},
        "tracking": {"uri": "here", "experiment": "e", "register_as": None},
        "allow_package": ["ours"],  # by the user of this job, not by the candidate
    }
    assert mean_pool["model"]["machine"] == {"kind": "mean_pool"}
    folders = [argv[-1] for argv in asked]
    assert folders[0] == folders[1] != folders[2]  # trained once for each config


@pytest.mark.parametrize(("given", "expected"), [(None, "old.parquet"), ("new.parquet", "new.parquet")])
def test_a_log_and_its_impressions_may_have_moved(given: str | None, expected: str) -> None:
    files: dict[str, Any] = {"impressions": ImpressionFile(path="old.parquet")}
    moved = on_log(DataConfig(log="a", **files), "b", given)
    assert (moved.log, moved.impressions.path) == ("b", expected)
    assert on_log(DataConfig(log="a"), "b", given) == DataConfig(log="b")
