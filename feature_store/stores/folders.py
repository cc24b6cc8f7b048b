"""What stores in folders share: one writer at a time, folders that appear whole, and errors in one line."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from feature_store.errors import DataError
from feature_store.files import locked, sync_folder

LOCK = "writer.lock"
_SPACE = "make room and run again: the store is as its last committed step left it"
_PERMISSION = "give the user who runs this the right to read and write the folder"
_MENDS = {
    errno.EIO: f"the disk is failing or full: {_SPACE}",  # LMDB calls a short write so
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _PERMISSION),
}


def refusal(address: str, code: int) -> DataError:
    """Say in one line what the system refused and how to mend it."""
    return DataError(f"{address}: {os.strerror(code)}; {_MENDS.get(code, 'check the path and the disk')}")


@contextmanager
def refusals_told(address: str) -> Iterator[None]:
    """Turn what the system refuses into a DataError."""
    try:
        yield
    except OSError as error:
        raise refusal(address, error.errno or errno.EIO) from error


@contextmanager
def exclusive(folder: Path, address: str) -> Iterator[None]:
    """Hold the folder's writer lock; LockedError if another process holds it."""
    lock = locked(folder / LOCK, f"{address}: another writer is at work; wait for it, or stop it, and run again")
    with ExitStack() as held:
        with refusals_told(address):
            held.enter_context(lock)
        yield


def refuse_taken(path: Path, address: str) -> None:
    """Raise a DataError unless the path is free, or an empty folder's."""
    with refusals_told(address):
        if path.is_symlink() or (path.exists() and not path.is_dir()) or (path.is_dir() and any(path.iterdir())):
            raise _taken(address)


def _taken(address: str) -> DataError:
    return DataError(f"{address}: there is something here already; open it, delete it, or name another place")


def create_folder(path: Path, address: str, fill: Callable[[Path], None]) -> None:
    """Make a folder that appears whole or not at all; one that holds anything already is a DataError."""
    refuse_taken(path, address)
    with refusals_told(address):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.creating-{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        try:
            fill(made)
            settle(made, path, address)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def draft_of(path: Path) -> Path:
    """Name the folder where a store lies until it is whole."""
    return path.with_name(f".{path.name}.copying")


def settle(draft: Path, path: Path, address: str) -> None:
    """Give a whole folder its name, which must be free or an empty folder's."""
    with refusals_told(address):
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _taken(address) from error
            raise
        sync_folder(path.parent)


def discard(path: Path, address: str) -> None:
    """Remove a folder that nobody writes."""
    if path.exists():
        with exclusive(path, address), refusals_told(address):
            shutil.rmtree(path)


def bytes_on_disk(folder: Path, address: str) -> int:
    """Measure the disk space of a folder's files, each counted once however many names it has."""
    sizes = {}
    with refusals_told(address):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a writer at work has just removed it
                file = path.lstat()
                sizes[file.st_dev, file.st_ino] = file.st_blocks * 512
    return sum(sizes.values())
