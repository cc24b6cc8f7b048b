"""A model's folder: it comes back as it was, holds no pickle, and each kind of damage is refused by name."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from feature_store.data_config import ITEM, Columns, LabelColumn
from feature_store.vocabulary.vocabularies import COUNT, Vocabularies
from feature_store.vocabulary.vocabulary import Vocabulary
from pipelines.errors import ModelError
from pipelines.models.artifact import TrainedModel, load_model, save_model
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.model import ClickModel

COLUMNS, IMPRESSIONS = Columns(user="who", event_features=("action",)), LabelColumn(column="bought")


def vocabularies(first: int = 5) -> Vocabularies:
    items = pa.array([first, 7, 9])
    features = {ITEM: Vocabulary(items, 2), "action": Vocabulary(pa.array(["view", None]), 1)}
    return Vocabularies(features, (), pa.table({ITEM: items, COUNT: [3, 2, 2]}))


def model(seed: int = 0, **settings: object) -> ClickModel:
    torch.manual_seed(seed)
    space = FeatureSpace(rows=vocabularies().num_rows(), events=(ITEM, "action"), targets=(ITEM,))
    config = ModelConfig.model_validate({"token_dim": 8, **settings})
    return ClickModel(config, space, allowed_packages=["acme_memory"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model(), vocabularies(), COLUMNS, IMPRESSIONS)
    return tmp_path / "model"


def test_it_comes_back_as_it_was(folder: Path) -> None:
    trained = load_model(folder)
    weights = model().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained.model.state_dict().items())
    assert not trained.model.training
    assert (trained.card.columns, trained.card.impressions) == (COLUMNS, IMPRESSIONS)
    assert trained.vocabularies.features["action"].ids.to_pylist() == ["view", None]
    assert trained.vocabularies.items.equals(vocabularies().items)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json", ".arrow"}


def test_a_folder_is_replaced_whole(folder: Path) -> None:
    (folder / "stray").write_text("")
    save_model(folder, model(seed=1), vocabularies(6), COLUMNS, IMPRESSIONS)
    trained: TrainedModel = load_model(folder)
    assert trained.vocabularies.item_ids.to_pylist() == [6, 7, 9]
    assert not (folder / "stray").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def rewrite(**fields: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(card | fields))

    return damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).rename(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("model.safetensors"), "{folder} is not a model: it has no model.safetensors"),
        (remove("model.json"), "{folder} is not a model: it has no model.json"),
        (remove("vocabulary"), "{folder} is not a model: it has no vocabulary"),
        (remove("vocabulary/items.arrow"), "{folder}/vocabulary is damaged: sha256 "),
        (flip("model.safetensors"), "{folder}/model.safetensors is damaged: sha256 "),
        (flip("vocabulary/vocabulary-000.arrow"), "{folder}/vocabulary is damaged: sha256 "),
        (lambda folder: (folder / "model.json").write_text("{"), "{folder}/model.json is damaged: it is not JSON"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff"), "{folder}/model.json is damaged: it is not JSON"),
        (lambda folder: (folder / "model.json").write_text("[]"), "{folder}/model.json cannot be used: "),
        (rewrite(format=99, novel=1), "{folder}/model.json has format 99, this version reads 2 and 3; train again"),
        (rewrite(novel=1), "{folder}/model.json cannot be used: novel: Extra inputs are not permitted"),
        (
            rewrite(memory_space="0" * 16),
            "{folder}/model.json is damaged: it names memory space 0000000000000000, its weights are in",
        ),
        (rewrite(model={"token_dim": 16}), "{folder}/model.safetensors does not fit its model.json: "),
    ],
)
def test_damage_is_one_line_that_names_the_file(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert str(caught.value).startswith(said.format(folder=folder))
    assert "\n" not in str(caught.value)


def of_version_2(folder: Path) -> None:
    """Write a card as versions before this one wrote it."""
    card = json.loads((folder / "model.json").read_text())
    assert card.pop("packages") == []
    assert card["model"].pop("sources") == {}
    (folder / "model.json").write_text(json.dumps(card | {"format": 2}))


def test_a_card_without_packages_is_read_as_before(folder: Path) -> None:
    before = load_model(folder).card
    of_version_2(folder)
    assert load_model(folder).card == before.model_copy(update={"format": 2})


def save_outside(folder: Path, **keys: object) -> Path:
    """Write a model with a machine of another package, as it was trained elsewhere: nothing of it is imported here."""
    machine = {"kind": "acme_memory.machines:FadingMeanMachine", **keys}
    saved = save_model(folder, model(machine=machine), vocabularies(), COLUMNS, IMPRESSIONS)
    assert saved.card.packages == ("acme_memory",)
    return folder


@pytest.mark.parametrize("claimed", [["acme_memory"], [], ["elsewhere"]])
@pytest.mark.parametrize("allowed", [(), ("elsewhere", "acme")])
def test_a_model_of_a_package_that_is_not_allowed_is_refused_unimported(
    acme: Callable[[], bool],
    forget_acme: Callable[[], None],
    tmp_path: Path,
    claimed: list[str],
    allowed: tuple[str, ...],
) -> None:
    folder = save_outside(tmp_path / "model")
    rewrite(packages=claimed)(folder)
    forget_acme()
    with pytest.raises(ModelError) as caught:
        load_model(folder, allowed)
    said = f"{folder}/model.json: machine.kind acme_memory.machines:FadingMeanMachine needs code of package"
    assert str(caught.value).startswith(said)
    assert "--allow-package acme_memory" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not acme()


def test_a_model_of_an_allowed_package_comes_back_with_every_setting(
    acme: Callable[[], bool], forget_acme: Callable[[], None], tmp_path: Path
) -> None:
    folder = save_outside(tmp_path / "model", num_means=3)
    rewrite(packages=[])(folder)  # the settings decide
    forget_acme()
    trained = load_model(folder, ["acme_memory"])
    assert acme()
    kind = "acme_memory.machines:FadingMeanMachine"
    assert json.loads((folder / "model.json").read_text())["model"]["machine"] == {
        "kind": kind,
        "num_means": 3,
        "longest": 64.0,
    }
    assert trained.card.model == trained.model.config
    assert type(trained.card.model.machine).__name__ == "FadingMean"
    weights = model(machine={"kind": kind, "num_means": 3}).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained.model.state_dict().items())


def test_a_model_whose_package_is_not_here_says_so(
    acme: Callable[[], bool], forget_acme: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_outside(tmp_path / "model")
    forget_acme()
    monkeypatch.setattr("sys.path", [place for place in sys.path if not place.endswith("outside")])
    with pytest.raises(ModelError, match=r"model.json cannot be used here: .* there is no module acme_memory; install"):
        load_model(folder, ["acme_memory"])
