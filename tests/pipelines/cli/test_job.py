"""What a job says and how it exits, whatever happens inside it."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_store.errors import DataError, LockedError
from pipelines.cli.job import GateRefused, Progress, result_console, run_job
from pipelines.errors import ModelError, RegistryError, RunError, SettingsError, TrackingError
from rm_rec.errors import BatchError


def ended(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    with pytest.raises(SystemExit) as caught:
        run_job(main)
    return caught.value.code, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def main(argv: list[str]) -> int:
        raise error

    return main


def test_a_job_gets_the_arguments_and_its_code_is_the_exit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["job", "--a", "1"])
    assert ended(lambda argv: 0 if argv == ["--a", "1"] else 9, capsys) == (0, "")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("log.parquet: no column user"), 2, "error: log.parquet: no column user\n"),
        (BatchError("no rows"), 2, "error: no rows\n"),
        (SettingsError("a: unknown\nb: unknown"), 2, "error: a: unknown\nerror: b: unknown\n"),
        (SettingsError(), 2, "error: SettingsError\n"),
        (ModelError("runs/a is not a model"), 2, "error: runs/a is not a model\n"),
        (RunError("runs/a holds another run"), 2, "error: runs/a holds another run\n"),
        (TrackingError("MLflow refuses"), 2, "error: MLflow refuses\n"),
        (RegistryError("no champion"), 2, "error: no champion\n"),
        (LockedError("runs/a is locked"), 2, "error: runs/a is locked\n"),
        (GateRefused("AUC 0.60 is below 0.70"), 3, "refused: AUC 0.60 is below 0.70\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(error), capsys) == (code, said)


def test_a_defect_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["job", f"--out={out}"])
    code, said = ended(raising(ValueError("two\nlines")), capsys)
    kept = out / "traceback.log"
    assert code == 1
    assert said == f"error: ValueError: two lines - this is a defect: please report it; traceback in {kept}\n"
    assert "Traceback (most recent call last)" in kept.read_text()


def test_a_traceback_finds_a_place_when_out_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["job", "--out", str(tmp_path / "file")])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, said = ended(raising(ZeroDivisionError("x")), capsys)
    kept = Path(said.split("traceback in ")[1].strip())
    assert kept.parent == tmp_path
    assert "ZeroDivisionError: x" in kept.read_text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full", "runs/a/model"), "runs/a/model: No space left on device; free some space"),
        (PermissionError(errno.EACCES, "no", "runs/a"), "runs/a: Permission denied; name a path that can be written"),
        (OSError(errno.EROFS, "no", "a.partial", None, "a"), "a: Read-only file system; name a path"),
        (OSError(errno.ENOSPC, "Error writing bytes to file"), "error: No space left on device; free some space"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: OSError, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = ended(raising(error), capsys)
    assert code == 2
    assert said in line
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_a_file_of_ours_that_is_missing_is_a_defect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = ended(raising(FileNotFoundError(errno.ENOENT, "gone", "x")), capsys)
    assert code == 1
    assert "this is a defect" in line


def test_results_are_neither_wrapped_nor_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    long = "runs/[red]/" + "a" * 200 + " and on :smile: 3"
    result_console().print(long)
    assert capsys.readouterr().out == f"{long}\n"


def test_progress_is_a_plain_line_every_few_seconds_off_a_terminal() -> None:
    now = 0.0
    stream = io.StringIO()
    with Progress("train", 1000, "users", every_seconds=5, stream=stream, clock=lambda: now) as progress:
        for _ in range(10):
            now += 2
            progress.advance(100, note="loss 0.5")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 300 of 1,000 users (30%), 6 s, about 14 s left, loss 0.5"
    assert lines[-1] == "train: 1,000 of 1,000 users (100%), 20 s, loss 0.5"
    assert len(lines) == 4
    assert all(character.isprintable() for line in lines for character in line)


def test_progress_without_a_total_counts() -> None:
    stream = io.StringIO()
    with Progress("read", None, "rows", stream=stream) as progress:
        progress.advance(1234)
    assert stream.getvalue() == "read: 1,234 rows, 0 s\n"


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("train", 10, "users", stream=stream) as progress:
        progress.advance(10, note="loss [0.5]")
    assert "10/10" in stream.getvalue()
    assert "loss [0.5]" in stream.getvalue()
