"""A run's folder holds one config, is worked on by one process, and says so in one line otherwise."""

from pathlib import Path
from typing import Any

import pytest

from feature_store.errors import DataError, LockedError
from feature_store.files import write_json
from pipelines.errors import RunError
from pipelines.runs.run_folder import METRICS, RUN, claimed, held, read_metrics


def settings(lr: float = 0.1, **training: Any) -> dict[str, Any]:
    return {"optimizer": {"lr": lr}, "training": {"seed": 0, **training}, "data": {"log": "a"}, "out": "x"}


def test_another_config_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    with claimed(tmp_path / "run", settings()):
        (tmp_path / "run" / "checkpoint").mkdir()
    with pytest.raises(RunError) as caught, claimed(tmp_path / "run", settings(lr=0.2)):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'run'} holds a run of another config: optimizer.lr is 0.1 there, 0.2 here; "
        "give another --out, or delete that folder to train anew"
    )
    with pytest.raises(RunError, match=r"and 1 other settings differ"), claimed(tmp_path / "run", settings(2, seed=1)):
        pass


def test_a_start_that_came_to_nothing_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column"), claimed(tmp_path, settings()):
        raise DataError("no column 'user_id'")
    with claimed(tmp_path, settings(lr=0.2)):
        (tmp_path / "checkpoint").mkdir()
    with pytest.raises(RunError, match=r"optimizer.lr is 0.2 there, 0.1 here"), claimed(tmp_path, settings()):
        pass


def test_what_has_no_effect_on_the_result_may_change(tmp_path: Path) -> None:
    with claimed(tmp_path, settings()):
        pass
    moved = {**settings(checkpoint_minutes=1.0), "data": {"log": "b"}, "tracking": {"uri": "c"}, "out": "y"}
    with claimed(tmp_path, moved):
        pass


def test_with_rehearsal_and_without_are_two_runs(tmp_path: Path) -> None:
    rehearsed = {**settings(), "rehearsal": {"recollection_weight": 0.2}}
    with claimed(tmp_path, rehearsed):
        (tmp_path / "checkpoint").mkdir()
    with (
        pytest.raises(RunError, match=r"rehearsal.recollection_weight is 0.2 there, None here"),
        claimed(tmp_path, {**settings(), "rehearsal": None}),
    ):
        pass
    with claimed(tmp_path, {**rehearsed, "retention": {"enabled": True}}):
        pass


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with (
        claimed(tmp_path, settings()),
        pytest.raises(LockedError, match="another process is at work here"),
        claimed(tmp_path, settings()),
    ):
        pass
    with claimed(tmp_path, settings()):
        pass


def test_a_folder_is_held_by_one_process_whatever_it_does(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with held(out), pytest.raises(LockedError, match="out: another process is at work here"), held(out):
        pass
    with held(out), pytest.raises(LockedError, match="another process is at work here"), claimed(out, settings()):
        pass
    with claimed(out, settings()):
        pass


def test_only_a_result_of_this_very_run_counts(tmp_path: Path) -> None:
    assert read_metrics(tmp_path, "f") is None
    write_json(tmp_path / METRICS, {"fingerprint": "f", "test": 1})
    assert read_metrics(tmp_path, "f") == {"fingerprint": "f", "test": 1}
    assert read_metrics(tmp_path, "g") is None
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("{")
    with pytest.raises(RunError, match=r"metrics.json is damaged: it is not JSON; delete it"):
        read_metrics(tmp_path, "f")
    (tmp_path / RUN).write_text("{")
    with (
        pytest.raises(RunError, match=r"run.json is damaged: it is not JSON; delete it"),
        claimed(tmp_path, settings()),
    ):
        pass
