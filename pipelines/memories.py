"""Look after a store of memories: look into it, copy it, delete a user.

python -m pipelines.memories inspect --memories memories [--user 42]
python -m pipelines.memories copy --memories memories --to redis://localhost:6379/0?name=clicks
python -m pipelines.memories delete-user --memories memories --user 42
"""

import sys
from typing import Literal

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from feature_store.errors import DataError
from feature_store.stores import MemoryStore, copy, open_store
from pipelines.cli import load_settings
from pipelines.cli.job import DONE, result_console, run_job
from pipelines.errors import SettingsError
from rm_rec.config.base import Settings

PROG = "python -m pipelines.memories"


class Inspect(Settings):
    """Print what a store is and holds, or what it holds of one user."""

    memories: str
    """A store: a folder, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    user: str | None = None
    """A user's id."""


class Copy(Settings):
    """Copy all memories, what was consumed and who was deleted into a new store; killed, run it again."""

    memories: str
    """The store to copy."""
    to: str
    """The new store: lmdb:FOLDER, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    dtype: Literal["float16", "float32"] | None = None
    """Of the new store's states, but for integers and what stays exact; as in the old one unless given."""


class DeleteUser(Settings):
    """Delete a user's memory for good: later builds skip the user's events."""

    memories: str
    """The store that forgets."""
    user: str
    """A user's id."""


_ACTIONS: dict[str, type[Inspect | Copy | DeleteUser]] = {"inspect": Inspect, "copy": Copy, "delete-user": DeleteUser}


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    action = argv[0] if argv else "--help"
    if action in ("--help", "-h"):
        sys.stdout.write((__doc__ or "") + "\n" + "".join(f"{PROG} {name} --help\n" for name in _ACTIONS))
        return DONE
    if action not in _ACTIONS:
        raise SettingsError(f"{action!r} is no action; expected {', '.join(_ACTIONS)}")
    block = _ACTIONS[action]
    settings = load_settings(block, argv[1:], prog=f"{PROG} {action}", description=block.__doc__ or "")
    console = result_console()
    with open_store(settings.memories) as store:
        if isinstance(settings, Copy):
            with copy(store, settings.to, settings.dtype) as made:
                console.print(f"{made.address}: {made.count():,} memories, copied from {store.address}")
        elif isinstance(settings, DeleteUser):
            _delete(store, settings.user, console)
        elif settings.user is None:
            _print_store(store, console)
        else:
            _print_user(store, settings.user, console)
    return DONE


def _delete(store: MemoryStore, user: str, console: Console) -> None:
    with store.writer() as writer:
        was_there = writer.delete(_typed(store, user))
    what = "deleted" if was_there else "had no memory"
    console.print(f"{store.address}: user {user} {what}, and will get none: later builds skip this user's events")


def _typed(store: MemoryStore, user: str) -> int | str:
    """Read an id of the command line as the store's users are."""
    if store.facts.memory.user_type == "string":
        return user
    try:
        return int(pa.scalar(int(user), pa.int64()).as_py())
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{store.address}: its users are integers of 64 bits, {user!r} is none") from error


def _print_store(store: MemoryStore, console: Console) -> None:
    facts, memory, journal = store.facts, store.facts.memory, store.journal()
    parts = (
        (name, "x".join(map(str, shape)) or "1", memory.types.get(name, "")) for name, shape in memory.state.items()
    )
    state = ", ".join(" ".join(filter(None, part)) for part in parts)
    rows = {
        "memories": f"{store.count():,}",
        "deleted users": f"{len(store.tombstones()):,}",
        "memory space": facts.space_id,
        "format": str(facts.format_version),
        "users' ids": memory.user_type,
        "state": f"{state or 'none'} ({memory.dtype})",
        "window": f"{memory.window_events} events of {', '.join(memory.features)}",
        "bytes per user": f"{memory.bytes_per_user:,}",
        "bytes on disk": f"{store.bytes_on_disk():,}",
        "buckets": str(facts.num_buckets),
    }
    if journal.under_way is not None:
        broken, step = journal.under_way.build, journal.under_way.step
        rows["broken off"] = f"build {broken.id} after {step} of {facts.num_buckets} buckets; build_memory goes on"
    _print(console, f"Memories in {store.address}", rows)
    if journal.builds:
        table = Table(title="Builds", title_justify="left")
        for column in ("build", "files", "events", "users", "late", "first event", "last event"):
            table.add_column(column, justify="left" if column == "build" else "right")
        for build in journal.builds:
            counts = (len(build.files), build.events, build.users, build.late)
            times = ("-" if moment is None else str(moment) for moment in (build.first_time, build.last_time))
            table.add_row(build.id, *(f"{count:,}" for count in counts), *times)
        console.print(table, soft_wrap=False)


def _print_user(store: MemoryStore, user: str, console: Console) -> None:
    wanted = pa.array([_typed(store, user)])
    memories, found = store.get(wanted)
    if not found[0]:
        why = "was deleted" if store.deleted(wanted)[0] else "has no memory"
        raise DataError(f"{store.address}: user {user} {why}")
    record = memories.records[0]
    rows = {
        "events": f"{int(record['num_events']):,}",
        "last event": str(int(record["last_time"])),
        "in the window": f"{int(record['num_window'])} of {store.facts.memory.window_events}",
    }
    for name, values in memories.state().items():
        form = ".4g" if values.dtype.kind == "f" else "d"
        low, mean, high = values.min(), float(values.mean()), values.max()
        rows[f"state {name}"] = f"{low:{form}} to {high:{form}}, mean {mean:.4g}"
    _print(console, f"Memory of user {user} in {store.address}", rows)
    window = memories.window()
    table = Table(title="Window, newest first", title_justify="left")
    for name in window:
        table.add_column("gap bin" if name == "time_gap" else name, justify="right")
    for place in np.arange(int(record["num_window"]))[::-1]:
        table.add_row(*(str(values[0, place]) for values in window.values()))
    console.print(table, soft_wrap=False)


def _print(console: Console, title: str, rows: dict[str, str]) -> None:
    console.print(title)  # not the table's own title, which is cut to its width
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, soft_wrap=False)


if __name__ == "__main__":
    run_job(main)
