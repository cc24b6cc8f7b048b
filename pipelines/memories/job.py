"""The work of `pipelines.memories`, imported once its settings are read."""

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from feature_store.errors import DataError
from feature_store.stores import MemoryStore, copy, open_store
from pipelines.cli.job import DONE, result_console
from pipelines.errors import SettingsError
from pipelines.memories import Copy, DeleteUser, Inspect


def run(settings: Inspect | Copy | DeleteUser) -> int:
    """Do one of the three actions; return the exit code."""
    console = result_console()
    with open_store(settings.memories) as store:
        if isinstance(settings, Copy):
            with copy(store, settings.to, settings.dtype) as new:
                console.print(f"{new.address}: {new.count():,} memories, copied from {store.address}")
        elif isinstance(settings, DeleteUser):
            _delete(store, settings.user, console)
        elif settings.user is None:
            _print_store(store, console)
        else:
            _print_user(store, settings.user, console)
    return DONE


def _delete(store: MemoryStore, user: str, console: Console) -> None:
    with store.writer() as writer:
        had_memory = writer.delete(_typed(store, user))
    result = "deleted" if had_memory else "had no memory"
    console.print(f"{store.address}: user {user} {result}, and will get none: later builds skip this user's events")


def _typed(store: MemoryStore, user: str) -> int | str:
    """Convert an id from the command line to the type of the store's user ids."""
    if store.facts.memory.user_type == "string":
        return user
    try:
        return int(pa.scalar(int(user), pa.int64()).as_py())
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{store.address}: its users are integers of 64 bits, {user!r} is not one") from error


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
        build_id, step = journal.under_way.build.id, journal.under_way.step
        rows["interrupted"] = f"build {build_id} after {step} of {facts.num_buckets} buckets; build_memory resumes it"
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
    users = pa.array([_typed(store, user)])
    memories, has_memory = store.get(users)
    if not has_memory[0]:
        reason = "was deleted" if store.deleted(users)[0] else "has no memory"
        raise DataError(f"{store.address}: user {user} {reason}")
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
    for position in np.arange(int(record["num_window"]))[::-1]:
        table.add_row(*(str(values[0, position]) for values in window.values()))
    console.print(table, soft_wrap=False)


def _print(console: Console, title: str, rows: dict[str, str]) -> None:
    console.print(title)  # not as the table's title, which would be cut to the table's width
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, soft_wrap=False)
