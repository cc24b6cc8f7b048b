"""What stores in folders share: one writer at a time, atomic creation, and system errors as DataError."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from feature_store.errors import DataError
from feature_store.files import locked, sync_folder

LOCK = "writer.lock"
_SPACE = "free disk space and run again: all committed steps are kept"
_PERMISSION = "give the user who runs this the right to read and write the folder"
_FIXES = {
    errno.EIO: f"the disk is failing or full: {_SPACE}",  # LMDB calls a short write so
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _PERMISSION),
}


def system_error(address: str, code: int) -> DataError:
    """Make a DataError of a system's error code, with a way to fix it."""
    return DataError(f"{address}: {os.strerror(code)}; {_FIXES.get(code, 'check the path and the disk')}")


@contextmanager
def system_errors_as_data_errors(address: str) -> Iterator[None]:
    """Turn OSError into DataError."""
    try:
        yield
    except OSError as error:
        raise system_error(address, error.errno or errno.EIO) from error


@contextmanager
def exclusive(folder: Path, address: str) -> Iterator[None]:
    """Hold the folder's writer lock; raises LockedError if another process holds it."""
    lock = locked(folder / LOCK, f"{address}: another process is writing to it; wait for it, or stop it, and run again")
    with ExitStack() as stack:
        with system_errors_as_data_errors(address):
            stack.enter_context(lock)
        yield


def check_free(path: Path, address: str) -> None:
    """Raise DataError unless there is nothing at the path, or an empty folder."""
    with system_errors_as_data_errors(address):
        if path.is_symlink() or (path.exists() and not path.is_dir()) or (path.is_dir() and any(path.iterdir())):
            raise _not_free(address)


def _not_free(address: str) -> DataError:
    return DataError(f"{address}: there is something here already; open it, delete it, or choose another path")


def create_folder(path: Path, address: str, fill: Callable[[Path], None]) -> None:
    """Create a folder atomically; raises DataError if there is something at the path already."""
    check_free(path, address)
    with system_errors_as_data_errors(address):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.creating-{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            fill(new)
            publish(new, path, address)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def draft_path(path: Path) -> Path:
    """Return the folder where a store is written until it is complete."""
    return path.with_name(f".{path.name}.copying")


def publish(draft: Path, path: Path, address: str) -> None:
    """Rename a complete folder; raises DataError unless there is nothing at the path, or an empty folder."""
    with system_errors_as_data_errors(address):
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _not_free(address) from error
            raise
        sync_folder(path.parent)


def remove(path: Path, address: str) -> None:
    """Remove a folder; raises LockedError if another process is writing to it."""
    if path.exists():
        with exclusive(path, address), system_errors_as_data_errors(address):
            shutil.rmtree(path)


def bytes_on_disk(folder: Path, address: str) -> int:
    """Return the disk space of a folder's files; a file with several hard links counts once."""
    sizes = {}
    with system_errors_as_data_errors(address):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # a writer has just removed it
                file = path.lstat()
                sizes[file.st_dev, file.st_ino] = file.st_blocks * 512
    return sum(sizes.values())
