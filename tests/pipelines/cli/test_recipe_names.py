"""`--config NAME`: a recipe that comes with rm-rec, wherever the job runs; a file of that name goes first."""

from pathlib import Path

import pytest

from pipelines.cli import load_settings
from pipelines.cli.recipes import RECIPES, find_recipe, recipe_names
from pipelines.errors import SettingsError
from pipelines.make_log import MakeLog
from pipelines.train_ctr import TrainCtr


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*argv: str) -> TrainCtr:
    return load_settings(TrainCtr, argv, prog="train", description="")


def test_a_name_is_the_recipe_of_that_name() -> None:
    named = train("--config", "quickstart", "--config", "models/din_50")
    paths = train("--config", str(RECIPES / "quickstart.yaml"), "--config", str(RECIPES / "models" / "din_50.yaml"))
    assert named == paths
    assert named.tracking.register_as == "rm-rec-quickstart"
    assert named.model.machine.kind == "none"


def test_a_file_goes_before_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()  # a run's folder is no file
    assert find_recipe("quickstart") == RECIPES / "quickstart.yaml"
    (tmp_path / "next_event").write_text("data: {log: mine.parquet}")
    assert train("--config", "next_event").data.log == "mine.parquet"


def test_a_mistake_in_what_a_recipe_says_names_the_recipe() -> None:
    with pytest.raises(SettingsError, match=r"^data \(quickstart\): unknown key"):
        load_settings(MakeLog, ["--config", "quickstart"], prog="p", description="")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("quickstrat", "quickstrat: neither a file nor a recipe that comes with rm-rec; did you mean quickstart?"),
        ("zzz", "zzz: neither a file nor a recipe that comes with rm-rec; give a YAML file, or one of "),
        ("../recipes/quickstart", "../recipes/quickstart: neither a file nor a recipe"),
        ("quickstart.yaml", "quickstart.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_name_of_nothing_is_told_in_one_line(given: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        train("--config", given)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_all_recipes_have_names_and_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert [find_recipe(name) for name in recipe_names()] == [RECIPES / f"{name}.yaml" for name in recipe_names()]
    assert len(recipe_names()) == len([*RECIPES.rglob("*.yaml")]) > 10
    with pytest.raises(SystemExit):
        train("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "a YAML file, or the name of a recipe that comes with rm-rec: assistments2017, " in text
    assert all(name in text for name in recipe_names())
