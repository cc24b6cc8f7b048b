"""What all jobs share: exit codes, errors in one line, progress, and the console for results.

if __name__ == "__main__":
    run_job(main)
"""

import errno
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TextIO, final

import rich.progress
from rich.console import Console

from rm_rec.errors import RenamedWarning, RmRecError

DONE, FAILED, BAD_INPUT, GATE_REFUSED, INTERRUPTED = 0, 1, 2, 3, 130
TEXT_WIDTH = 120  # of output that does not go to a terminal

_SPACE, _PATH = "free some space, or name a path on another disk", "name a path that can be written"
# System errors that a user can fix, with what to do; other system errors are defects of rm-rec.
_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _PATH),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG), _PATH),
    errno.EIO: "check the disk",
}


class GateRefused(Exception):  # noqa: N818 - a refusal is a result, not an error
    """The promotion gate refused a candidate; the message says which number missed which bound."""


def result_console() -> Console:
    """Return the console for a job's results: lines are not wrapped, and text is not parsed as rich's markup.

    Print a table with `print(table, soft_wrap=False)`, so that it fits the width.
    """
    width = None if sys.stdout.isatty() else TEXT_WIDTH
    return Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)


def run_job(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a job on the command line's arguments and exit: 0 done, 1 failed, 2 bad input, 3 gate refused, 130 Ctrl-C.

    An error that a user can fix is printed on stderr, one line `error: …` for each mistake; a former name of a setting
    is one line `note: …`. Any other error is a defect of rm-rec: one line, and the traceback in a file in the job's
    `--out` folder or, failing that, in a temporary file.
    """
    argv = sys.argv[1:]
    warnings.formatwarning = _one_line_for_renamed(warnings.formatwarning)
    try:
        code = main(argv)
    except RmRecError as error:
        _print_lines("error", str(error) or type(error).__name__)
        code = BAD_INPUT
    except GateRefused as refusal:
        _print_lines("refused", str(refusal) or type(refusal).__name__)
        code = GATE_REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - no traceback is shown to a user
        if isinstance(error, OSError) and error.errno in _FIXES:
            _print_lines("error", _system_error(error))
            code = BAD_INPUT
        else:
            message = " ".join(str(error).split())
            path = _write_traceback(argv)
            sys.stderr.write(
                f"error: {type(error).__name__}: {message} - this is a defect: please report it; traceback in {path}\n"
            )
            code = FAILED
    sys.exit(code)


def _one_line_for_renamed(otherwise: Callable[..., str]) -> Callable[..., str]:
    """Write a warning about a former name as one line; leave all others to `otherwise`."""

    def written(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, RenamedWarning):
            return f"note: {message}\n"
        return otherwise(message, category, filename, lineno, line)

    return written


def _system_error(error: OSError) -> str:
    assert error.errno is not None
    where = f"{error.filename2 or error.filename}: " if error.filename else ""
    return f"{where}{os.strerror(error.errno)}; {_FIXES[error.errno]}"


def _print_lines(prefix: str, message: str) -> None:
    sys.stderr.writelines(f"{prefix}: {line}\n" for line in message.splitlines())


def _write_traceback(argv: Sequence[str]) -> Path:
    """Write the current traceback to the out folder or, if that cannot be written, to a temporary file."""
    text = traceback.format_exc()
    out = _out_folder(argv)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            path = out / "traceback.log"
            path.write_text(text, encoding="utf-8")
        except OSError:
            pass
        else:
            return path
    with tempfile.NamedTemporaryFile("w", prefix="rm-rec-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(text)
    return Path(file.name)


def _out_folder(argv: Sequence[str]) -> Path | None:
    for position, argument in enumerate(argv):
        if argument == "--out" and position + 1 < len(argv):
            return Path(argv[position + 1])
        if argument.startswith("--out="):
            return Path(argument.removeprefix("--out="))
    return None


@final
class Progress:
    """Progress of a job: a bar on a terminal, elsewhere a plain line every few seconds and one at the end.

    `total` and `advance` count the same `unit`; `total` is None if it is not known.

        with Progress("train", total=1000, unit="users") as progress:
            progress.advance(10, note="loss 0.52")
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        *,
        every_seconds: float = 5.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._every_seconds, self._clock = every_seconds, clock
        self._stream = sys.stderr if stream is None else stream
        self._done, self._note = 0, ""
        self._started = self._last_line = clock()
        self._bar: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)

    def __enter__(self) -> Self:
        self._started = self._last_line = self._clock()
        if self._stream.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn(self._unit),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(self._name, total=self._total, note="")
            self._bar.start()
        return self

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units as done; `note` (such as the loss) is shown until the next one."""
        self._done += amount
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, note=self._note)
        elif self._clock() - self._last_line >= self._every_seconds:
            self._line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line()

    def _line(self) -> None:
        now = self._clock()
        self._last_line = now
        seconds = now - self._started
        parts = [f"{self._name}: {self._done:,} {self._unit}", f"{seconds:.0f} s"]
        if self._total:
            fraction = self._done / self._total
            parts[0] = f"{self._name}: {self._done:,} of {self._total:,} {self._unit} ({fraction:.0%})"
            if 0 < fraction < 1:
                parts.append(f"about {seconds * (1 - fraction) / fraction:.0f} s left")
        self._stream.write(", ".join([*parts, self._note] if self._note else parts) + "\n")
        self._stream.flush()


def this_python() -> str:
    """Return the path of the running interpreter, relative to the current folder if it is in there."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
