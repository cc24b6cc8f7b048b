"""Run pytest in child processes that are forked from one that has imported the heavy packages already.

A process that imports torch, torchrec and MLflow anew takes six to eight seconds for it; a forked one takes none. The
parent imports nothing of the project itself, so that each child imports the copy that it is told to test.
"""

import importlib
import os
import shlex
import shutil
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Generic, NoReturn, TypeVar

import psutil

_HEAVY = (
    *("torch", "torchrec", "mlflow", "mlflow.pyfunc", "pandas", "pyarrow.parquet", "pyarrow.dataset", "duckdb", "lmdb"),
    *("sklearn.metrics", "matplotlib.pyplot", "safetensors.torch", "pydantic", "rich.console", "redis", "yaml"),
    *("pytest", "hypothesis", "jaxtyping", "beartype", "scipy.stats"),
)
_PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0", "--tb=line")
_POLL_SECONDS = 0.4

PASSED = (0, 5)  # pytest's exit status where no test failed, and where there was none to run

NOT_RUN = 99  # a child's own exit status, where pytest could not be run

Work = TypeVar("Work")


@dataclass(frozen=True)
class Ended:
    """What became of a child: pytest's exit status, None where its time was up; process time of it and its children."""

    status: int | None
    seconds: float
    last_line: str

    @property
    def passed(self) -> bool:
        """Whether all tests passed; a file all of whose tests are skipped or deselected passes."""
        return self.status in PASSED


@dataclass(frozen=True)
class Tests(Generic[Work]):
    """Files of tests to run in a copy of the project, and how much process time they may take."""

    work: Work
    root: Path
    files: tuple[str, ...]
    limit: float
    options: tuple[str, ...] = ("-x",)
    compiles: bool = False
    """Whether bytecode is kept: of a copy that others are made of, not of one that is changed."""
    environment: tuple[tuple[str, str], ...] = ()
    started_by: Callable[[], Callable[[], None]] | None = None
    """Called in the child before the tests; what it returns is called after them."""


@dataclass
class _Child(Generic[Work]):
    tests: Tests[Work]
    pid: int
    began: float
    seconds: float = 0.0


def import_heavy_packages() -> None:
    """Import once what every child needs, with one thread: a process that has started more cannot be forked safely."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "agg"}
    for name in _HEAVY:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def run_all(queue: Iterator[Tests[Work]], workers: int) -> Iterator[tuple[Work, Ended]]:
    """Run tests in so many children at a time, and tell of each as it ends. Copies are removed by whoever made them."""
    children: list[_Child[Work]] = []
    try:
        while True:
            while len(children) < workers and (tests := next(queue, None)) is not None:
                children.append(_start(tests))
            if not children:
                return
            time.sleep(_POLL_SECONDS)
            for child in [*children]:
                if (ended := _ended(child)) is not None:
                    children.remove(child)
                    yield child.tests.work, ended
    finally:
        for child in children:
            _end(child.pid)
            os.waitpid(child.pid, 0)


def _start(tests: Tests[Work]) -> _Child[Work]:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _run_tests(tests)
    return _Child(tests, pid, time.monotonic())


def _run_tests(tests: Tests[Work]) -> NoReturn:
    status = NOT_RUN
    try:
        os.setsid()
        # Temporary files of a killed child go with its copy.
        temporary = tests.root.parent / f"{tests.root.name}-tmp-{os.getpid()}"
        temporary.mkdir()
        said = os.open(_said(tests.root, os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        os.environ |= {"PYTHONPATH": str(tests.root), "TMPDIR": str(temporary)}
        os.environ["PYTHONDONTWRITEBYTECODE"] = "" if tests.compiles else "1"
        os.environ |= dict(tests.environment)
        sys.dont_write_bytecode = not tests.compiles
        _leave_this_checkout(tests.root)
        after = tests.started_by() if tests.started_by else None
        import pytest

        options = [*_PYTEST, "--rootdir", str(tests.root), "-c", str(tests.root / "pyproject.toml")]
        options += ["--basetemp", str(temporary / "pytest"), *tests.options]
        # One file after the other: what the first one notices, no other has to be imported for.
        for file in tests.files:
            code = int(pytest.main([*options, file]))
            if code not in PASSED:
                break
            options += _checked_already(tests.root)
        if after is not None:
            after()
        status = code
    except BaseException:  # noqa: BLE001  # whatever it is, this process must not go on as its parent would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _checked_already(root: Path) -> list[str]:
    """Return the options under which pytest does not ask a second time for the checks of shapes, which go on."""
    with (root / "pyproject.toml").open("rb") as file:
        options = shlex.split(tomllib.load(file)["tool"]["pytest"]["ini_options"]["addopts"])
    return ["-o", "addopts=" + shlex.join(one for one in options if not one.startswith("--jaxtyping-packages"))]


def _leave_this_checkout(root: Path) -> None:
    here = str(Path(__file__).parents[2])
    sys.path[:] = [str(root), *(place for place in sys.path if place not in ("", here, str(root)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    # Processes that tests spawn import their parent's main module first: let there be none.
    sys.modules["__main__"] = ModuleType("__main__")
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    os.chdir(root)


def _ended(child: _Child[Work]) -> Ended | None:
    tests = child.tests
    # Measured as they go: a server that a test leaves to end by itself is never waited for.
    child.seconds = max(child.seconds, _process_seconds(child.pid))
    pid, status, usage = os.wait4(child.pid, os.WNOHANG)
    if pid == 0:
        # Time on the clock counts too, generously, since who waits for ever uses none of the processor's.
        if child.seconds <= tests.limit and time.monotonic() - child.began <= 10 * tests.limit:
            return None
        _end(child.pid)
        os.waitpid(child.pid, 0)
        ended = Ended(None, child.seconds, "time was up")
    else:
        _end(child.pid)
        said = _said(tests.root, child.pid)
        lines = said.read_text(errors="replace").splitlines() if said.exists() else []
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        code = os.waitstatus_to_exitcode(status)
        seconds = max(child.seconds, usage.ru_utime + usage.ru_stime)
        ended = Ended(code, seconds, f"exit {code}: " + (failed or lines or [""])[-1][:300])
    shutil.rmtree(tests.root.parent / f"{tests.root.name}-tmp-{child.pid}", ignore_errors=True)
    _said(tests.root, child.pid).unlink(missing_ok=True)
    return ended


def _said(root: Path, pid: int) -> Path:
    return root.parent / f"{root.name}-{pid}.txt"


def _process_seconds(pid: int) -> float:
    """Process time of a process and of those that it started, ended or not."""
    total = 0.0
    try:
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.NoSuchProcess:
        return total
    return total


def _end(pid: int) -> None:
    """End a child with its process group, and those of its children that lead groups of their own."""
    try:
        others = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        others = []
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in others:
        with suppress(psutil.NoSuchProcess):
            process.kill()
