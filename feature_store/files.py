"""Files and folders that appear whole or not at all and survive a loss of power; locks between processes; hashes."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_store.errors import LockedError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; afterwards sync that file to disk and rename it to `path`.

    After a crash at any moment `path` has its old content or the new. Where the block raises, the new file is removed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "scores.csv"
    >>> with replacing(file) as partial:
    ...     _ = partial.write_text("user,score")
    >>> file.read_text(), partial.exists()
    ('user,score', False)
    """
    partial = _partial(path)
    try:
        yield partial
        sync_file(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; afterwards sync it to disk and rename it to `path`.

    What `path` held before is removed first. Where the block raises, the new folder is removed.
    """
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_tree(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Replace a file's content (UTF-8), as `replacing` does."""
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file's content by JSON, as `replacing` does; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def sync_file(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


sync_folder = sync_file


def sync_tree(folder: Path) -> None:
    """Wait until all that lies in a folder is on disk."""
    for path in folder.rglob("*"):
        sync_file(path)
    sync_folder(folder)


@contextmanager
def locked(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file, which is made if it is not there; the system releases it when the process ends.

    Raises:
        LockedError: another process holds it; `refusal` is the message.
        OSError: the file cannot be opened.
    """
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(refusal) from error
        yield
    finally:
        os.close(file)


def sha256_of_text(text: str) -> str:
    """Hash a text.

    >>> sha256_of_text("rm-rec")[:12]
    '14e319a6b3d4'
    """
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_json(values: Any) -> str:
    """Hash JSON values; the order of keys does not matter.

    >>> sha256_of_json({"lr": 0.1, "seed": 2}) == sha256_of_json({"seed": 2, "lr": 0.1})
    True
    """
    return sha256_of_text(json.dumps(values, sort_keys=True))


def sha256_of_file(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Hash the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{sha256_of_file(path)}\0".encode())
    return digest.hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
