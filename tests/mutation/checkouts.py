"""Private copies of the project, in which tests see a changed file and nobody else does."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("rm_rec", "feature_store", "pipelines")
# What tests need and git keeps elsewhere: the code is named by its commit.
_LINKED = (".git",)
_LEFT_OUT = shutil.ignore_patterns(".*", "runs", "data", "mlruns", "mlartifacts", "mlflow.db*", "build", "dist")


def copy_project(source: Path, target: Path) -> None:
    """Copy a project's files with their times, so that bytecode that was compiled in the source counts in the copy."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        return _LEFT_OUT(folder, names) if Path(folder) == source else set()

    shutil.copytree(source, target, ignore=left_out, symlinks=True)
    for name in _LINKED:
        if (source / name).exists():
            (target / name).symlink_to((source / name).resolve())


def replace_file(path: Path, content: bytes) -> None:
    """Change a file of a copy, so that its bytecode is taken for stale whatever its size."""
    modified = path.stat().st_mtime
    path.write_bytes(content)
    os.utime(path, (modified + 10, modified + 10))


def modules(root: Path) -> list[Path]:
    """List the packages' Python files, sorted."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def test_files(root: Path) -> list[Path]:
    """List the files of tests, without the tool's own."""
    return [path for path in _tests(root) if path.name.startswith("test_")]


def support_files(root: Path) -> list[Path]:
    """List what files of tests import and share."""
    return [path for path in _tests(root) if not path.name.startswith("test_")]


def _tests(root: Path) -> list[Path]:
    own = root / "tests" / Path(__file__).parent.name
    return sorted(path for path in (root / "tests").rglob("*.py") if path.parent != own)


def digest(root: Path, paths: Iterable[Path]) -> str:
    """Return a hash of files' names and contents."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]
