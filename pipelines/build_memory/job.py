"""The work of `pipelines.build_memory`, imported once its settings are read."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from feature_store.errors import DataError
from feature_store.files import write_json
from feature_store.logs.parquet_source import INTEGER, NOTHING, ParquetSource
from feature_store.logs.row_checks import event_columns
from feature_store.stores import NoMemoriesError, create_store, open_store, public_address
from feature_store.stores.store import Build, MemoryStore, StoreFacts
from feature_store.stores.users import UserType
from pipelines.build_memory import BuildMemory
from pipelines.building.builder import MemoryBuilder
from pipelines.building.plan import data_config, event_source, how_read, plan_builds
from pipelines.cli.job import DONE, result_console, this_python
from pipelines.errors import ModelError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.memory_records import check_space, memory_schema
from pipelines.models.model_files import find_model
from pipelines.runs.run_folder import held


def run(settings: BuildMemory) -> int:
    """Build what the store lacks of the log; return the exit code."""
    console = result_console()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    trained = load_model(find_model(settings.model, settings.tracking_uri), settings.allow_package)
    source = event_source(settings.log)
    with held(Path(settings.out)), _open(settings, trained, source) as store:
        check_space(trained, store, settings.model)
        builds = build_all(settings, trained, source, store, console.print)
        _finish(settings, store, builds, console)
    return DONE


def _open(settings: BuildMemory, trained: TrainedModel, source: ParquetSource) -> MemoryStore:
    with suppress(NoMemoriesError):
        return open_store(settings.memories)
    space = trained.card.memory_space
    if space is None:
        raise ModelError(
            f"{settings.model}: its window is the whole history; there is no memory of fixed size to build"
        )
    event_columns(source, data_config(trained.card, source, settings.read))  # a log that is refused creates no store
    kind = source.kind(trained.card.columns.user)
    if kind == NOTHING:
        raise DataError(
            f"{settings.log}: column {trained.card.columns.user!r} holds only nulls; there is no user in it"
        )
    user_type: UserType = "int64" if kind == INTEGER else "string"
    schema = memory_schema(trained.model.memory, trained.model.features.events, settings.dtype, user_type)
    return create_store(settings.memories, StoreFacts(space_id=space, memory=schema, num_buckets=settings.num_buckets))


def build_all(
    settings: BuildMemory,
    trained: TrainedModel,
    source: ParquetSource,
    store: MemoryStore,
    notify: Callable[[str], None],
) -> list[Build]:
    """Build what a store lacks of a log: first resume an interrupted build, then build the new files."""
    config = data_config(trained.card, source, settings.read)
    builder = MemoryBuilder(trained, store, source, config, Path(settings.out), notify)
    row_rules = how_read(store.facts.space_id, settings.read)
    builds = []
    with store.writer() as writer:
        for build in plan_builds(store.journal(), source, row_rules):
            rebuild_late = settings.late == "rebuild-user"
            builds.append(
                builder.run(writer, build, rebuild_late=rebuild_late, batch_events=settings.read.batch_events)
            )
    builder.clear_up()
    return builds


def _finish(settings: BuildMemory, store: MemoryStore, builds: list[Build], console: Console) -> None:
    """Print the counts and write metrics.json."""
    total = {name: sum(getattr(build, name) for build in builds) for name in _COUNTED}
    figures = {
        **total,
        "builds": len(builds),
        "memories": store.count(),
        "bytes_per_user": store.facts.memory.bytes_per_user,
        "bytes_on_disk": store.bytes_on_disk(),
        "memory_space": store.facts.space_id,
    }
    out, memories = Path(settings.out), public_address(settings.memories)
    write_json(out / "metrics.json", figures)
    if not builds:
        console.print(f"{memories}: every file of {settings.log} was consumed before; nothing to do")
    console.print(f"Memories in {store.address}")  # not as the table's title, which would be cut to the table's width
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        words = _COUNTED.get(name, name.replace("_", " "))
        table.add_row(words, f"{value:,}" if isinstance(value, int) else value)
    console.print(table, soft_wrap=False)
    if total["late"] and settings.late == "set-aside":
        console.print(f"Late events  {out / 'late'}")
    allowed = f"--allow-package {','.join(settings.allow_package)} " if settings.allow_package else ""
    console.print(
        f"\nNext: {this_python()} -m pipelines.score_batch --model {settings.model} --memories {memories} "
        f"{allowed}--candidates CANDIDATES.parquet --out SCORES.parquet"
    )


_COUNTED = {
    "events": "events folded",
    "users": "users updated",
    "late": "late events",
    "rebuilt_users": "users rebuilt",
    "skipped_deleted": "events of deleted users",
}
