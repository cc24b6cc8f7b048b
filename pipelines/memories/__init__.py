"""Inspect a store of memories, copy it, or delete a user from it.

python -m pipelines.memories inspect --memories memories
python -m pipelines.memories inspect --memories memories --user 42
python -m pipelines.memories copy --memories memories --to redis://localhost:6379/0?name=clicks
python -m pipelines.memories delete-user --memories memories --user 42
"""

import sys
from typing import Literal

from pipelines.cli import load_settings
from pipelines.cli.job import DONE
from pipelines.errors import SettingsError
from rm_rec.config.base import Settings

PROG = "python -m pipelines.memories"


class Inspect(Settings):
    """Print a store's facts and builds, or one user's memory."""

    memories: str
    """Store of memories: a folder, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    user: str | None = None
    """Id of the user whose memory is printed; null prints the store."""


class Copy(Settings):
    """Copy all memories, the record of consumed files and the deleted users into a new store.

    If the job is killed, run it again.
    """

    memories: str
    """Store to copy."""
    to: str
    """New store: lmdb:FOLDER, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    dtype: Literal["float16", "float32"] | None = None
    """Number type of the new store's states; null keeps that of the old one. Counts and other parts that must be exact
    keep their own type."""


class DeleteUser(Settings):
    """Delete a user's memory for good: later builds skip the user's events."""

    memories: str
    """Store to delete the user from."""
    user: str
    """Id of the user."""


_ACTIONS: dict[str, type[Inspect | Copy | DeleteUser]] = {"inspect": Inspect, "copy": Copy, "delete-user": DeleteUser}
_EXAMPLES = {
    "inspect": ("--memories memories", "--memories memories --user 42"),
    "copy": ("--memories memories --to redis://localhost:6379/0?name=clicks",),
    "delete-user": ("--memories memories --user 42",),
}


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    action = argv[0] if argv else "--help"
    if action in ("--help", "-h"):
        sys.stdout.write((__doc__ or "") + "\n" + "".join(f"{PROG} {name} --help\n" for name in _ACTIONS))
        return DONE
    if action not in _ACTIONS:
        raise SettingsError(f"{action!r} is no action; expected {', '.join(_ACTIONS)}")
    block = _ACTIONS[action]
    settings = load_settings(
        block,
        argv[1:],
        prog=f"{PROG} {action}",
        description=" ".join((block.__doc__ or "").split()),
        examples=[f"{PROG} {action} {example}" for example in _EXAMPLES[action]],
    )
    from pipelines.memories.job import run  # late: what it imports takes seconds

    return run(settings)
