"""A model is found where it may lie within a folder."""

from pathlib import Path

import pytest

from pipelines.errors import TrackingError
from pipelines.models.model_files import find_model


@pytest.mark.parametrize("within", [".", "model", "artifacts/model"])
def test_a_model_is_found_within_a_folder(tmp_path: Path, within: str) -> None:
    (tmp_path / within).mkdir(parents=True, exist_ok=True)
    (tmp_path / within / "model.json").touch()
    (tmp_path / "model").mkdir(exist_ok=True)  # of something else
    assert find_model(str(tmp_path), "").samefile(tmp_path / within)


def test_a_folder_without_a_model_is_left_to_its_reader(tmp_path: Path) -> None:
    assert find_model(str(tmp_path), "") == tmp_path


def test_what_mlflow_does_not_have_is_named() -> None:
    with pytest.raises(TrackingError, match=r"models:/none/1: MLflow at nonsense://x does not give this model: "):
        find_model("models:/none/1", "nonsense://x")
