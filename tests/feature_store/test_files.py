"""Files appear whole and synced or not at all; a lock belongs to one process; hashes are of content alone."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feature_store import files
from feature_store.errors import LockedError
from feature_store.files import (
    locked,
    replacing,
    replacing_folder,
    sha256_of_file,
    sha256_of_folder,
    sha256_of_text,
    sync_tree,
    write_json,
    write_text,
)
from rm_rec.errors import RmRecError


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record, in order, what is synced to disk and what is renamed to what."""
    recorded: list[tuple[str, str]] = []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def fsync(descriptor: int) -> None:
        recorded.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        recorded.append(("rename", target.name))
        return rename(path, target)

    def replaced(path: Path, target: Path) -> Path:
        recorded.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    return recorded


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    write_text(tmp_path / "a.txt", "é")
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    assert steps == [("sync", "a.txt.partial"), ("rename", "a.txt"), ("sync", tmp_path.name)]


def test_a_folder_is_on_disk_with_all_that_is_in_it_before_it_has_its_name(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    with replacing_folder(tmp_path / "model") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "new").write_text("new")
        assert (tmp_path / "model" / "old").exists()
    assert [path.name for path in sorted((tmp_path / "model").rglob("*"))] == ["deep", "new"]
    assert sorted(steps[:3]) == [("sync", "deep"), ("sync", "model.partial"), ("sync", "new")]
    assert steps[3:] == [("rename", "model"), ("sync", tmp_path.name)]


class _Failed(Exception):  # noqa: N818
    pass


def fail(path: Path) -> None:
    path.write_text("half")
    raise _Failed


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(_Failed), replacing(tmp_path / "a") as partial:
        fail(partial)
    with pytest.raises(_Failed), replacing(tmp_path / "b"):
        raise _Failed  # nothing was written yet
    with replacing_folder(tmp_path / "c") as partial:
        (partial / "kept").write_text("before")
    with pytest.raises(_Failed), replacing_folder(tmp_path / "c") as partial:
        fail(partial / "half")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"auc": float("nan")})
    assert (tmp_path / "a").read_text() == "before"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "c", "kept"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "half").write_text("half")
    with replacing_folder(tmp_path / "c") as partial:
        assert not list(partial.iterdir())
    (tmp_path / "a.partial").write_text("half, and longer")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_every_file_of_a_tree_is_synced(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "two").write_text("2")
    sync_tree(tmp_path)
    assert sorted(steps) == sorted([("sync", "one"), ("sync", "two"), ("sync", tmp_path.name)])


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    hold = "import sys, pathlib; from feature_store.files import locked\n"
    hold += "with locked(pathlib.Path(sys.argv[1]), 'held'): print('holds', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(files.__file__).parents[1],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "holds\n"
    with (
        pytest.raises(LockedError, match=r"^memories: somebody else writes$"),
        locked(lock, "memories: somebody else writes"),
    ):
        pass
    child.kill()
    child.communicate()
    with locked(lock, "held"):
        pass
    with locked(lock, "held"):  # released at the end of the block
        pass
    assert issubclass(LockedError, RmRecError)


def test_hashes_are_of_names_and_content(tmp_path: Path) -> None:
    assert sha256_of_text("é") == hashlib.sha256("é".encode()).hexdigest()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
        (tmp_path / name / "y").write_text("2")
    assert sha256_of_file(tmp_path / "a" / "x") == sha256_of_text("1")
    assert sha256_of_folder(tmp_path / "a") == sha256_of_folder(tmp_path / "b")
    (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
    assert sha256_of_folder(tmp_path / "a") != sha256_of_folder(tmp_path / "b")
