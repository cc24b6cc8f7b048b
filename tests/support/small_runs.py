"""Settings under which a training run is made of little but starting up, and ways to run jobs and to kill them."""

import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "pipelines" / "recipes"
SMALL_LOG = (
    *("--log.users", "40", "--log.events_per_user", "60", "--log.items", "60", "--log.categories", "20"),
    *("--log.early_interests", "5", "--log.recent_interests", "3"),
)
# One thread, so that sums are in one order.
SMALL_MODEL = (
    *("--model.token_dim", "8", "--model.segment_length", "8", "--model.machine.num_slots", "4"),
    *("--model.machine.slot_dim", "8", *("--training.threads", "1", "--training.batch_events", "512")),
    *("--metrics.resamples", "5"),
)
_PROGRESS = ("training epoch", "building: ", "scoring: ", "probing ")
Ended = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Kill:
    """A moment of a run: the nth call of module:function or module:Class.method, before it starts or after it ends."""

    function: str
    call: int = 1
    when: Literal["before", "after"] = "before"


def environment() -> dict[str, str]:
    """Return what a job sees: this checkout's packages, and nothing that a terminal would set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "TERM")}
    return kept | {"PYTHONPATH": str(ROOT)}


def run_alone(folder: Path, module: str, *arguments: object) -> Ended:
    """Run a job as a user does, by a command in a folder; it takes seconds to import what it needs."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
        timeout=300,
    )


def fork_server() -> ForkServerContext:
    """Start the server of processes that have all jobs imported; what others ask it to preload comes too late."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with patch.dict(os.environ, PYTHONPATH=path):  # this checkout's packages, wherever the current folder is
        forkserver.ensure_running()
    return context


def run_forked(
    folder: Path, module: str, *arguments: object, kill: Kill | None = None, largest_file: int | None = None
) -> Ended:
    """Run a job in a process of its own that is forked from one that has imported it: the same, but soon."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [*map(str, arguments)]
    process = fork_server().Process(target=_job, args=(str(folder), module, argv, kill, largest_file))
    process.start()
    process.join(300)
    assert process.exitcode is not None, f"{module} {argv} did not end"
    said = [(folder / f"{process.pid}.{name}").read_text() for name in ("out", "err")]
    return subprocess.CompletedProcess([module, *argv], process.exitcode, *said)


def _job(folder: str, module: str, argv: list[str], kill: Kill | None, largest_file: int | None) -> None:
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(f"{os.getpid()}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    for name in ("COLUMNS", "FORCE_COLOR", "TERM"):
        os.environ.pop(name, None)
    sys.argv = [module, *argv]
    if kill is not None:
        _arm(kill)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if module == "pipelines.compare_machines":
        _preload_for_its_runs()
    from pipelines.cli.job import run_job

    run_job(importlib.import_module(module).main)


def _preload_for_its_runs() -> None:
    """Let the server of a comparison's training runs, once it is needed, import what ours has."""
    os.environ["PYTHONPATH"] = str(ROOT)
    forkserver.set_forkserver_preload(["tests.support.preloaded"])
    forkserver.set_forkserver_preload = lambda names: None  # type: ignore[assignment]  # the comparison's own, later


def _arm(kill: Kill) -> None:
    name, place = kill.function.split(":")
    *owners, attribute = place.split(".")
    owner = importlib.import_module(name)
    for inner in owners:
        owner = getattr(owner, inner)
    original = getattr(owner, attribute)
    calls = 0

    def fatal(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call and kill.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, fatal)


def one_line(ended: Ended) -> str:
    """What a job that refused its input said: nothing but one line of error, beside its progress."""
    assert ended.returncode == 2, (ended.returncode, ended.stderr)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(_PROGRESS)]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.stdout + ended.stderr
    return lines[0]
