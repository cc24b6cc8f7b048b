"""Jobs start fast: help and refused arguments come before anything is imported that takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines.cli.job import BAD_INPUT, DONE
from pipelines.comparison.names import MACHINE_KINDS
from rm_rec.machines import MACHINES
from tests.support.nights import random_log, train, write
from tests.support.small_runs import environment

JOBS = sorted(file.parent.name for file in Path(pipelines.__path__[0]).glob("*/__main__.py"))
SLOW = {"torch", "torchrec", "mlflow", "pandas", "pyarrow", "duckdb", "sklearn", "scipy", "matplotlib", "numpy", "lmdb"}

STARTED = f"""
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    sys.stdout.write("imported: " + " ".join(sorted({SLOW!r} & set(sys.modules))))
"""


def start(folder: Path, job: str, *argv: str) -> tuple[int, str]:
    """Return a job's exit code, and the slow packages that it had imported by then."""
    ended = subprocess.run(
        [sys.executable, "-c", STARTED, f"pipelines.{job}", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
    )
    return ended.returncode, ended.stdout.rpartition("imported: ")[2]


def test_all_jobs_are_there() -> None:
    assert len(JOBS) == 9
    assert {"train_ctr", "build_memory", "memories"} <= set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_help_and_refused_arguments_import_nothing_slow(tmp_path: Path, job: str) -> None:
    action = ("inspect",) if job == "memories" else ()
    assert start(tmp_path, job, *action, "--help") == (DONE, "")
    assert start(tmp_path, job, *action, "--no_such_key", "3") == (BAD_INPUT, "")
    assert start(tmp_path, job, *action, "--config", "missing.yaml") == (BAD_INPUT, "")


def test_what_was_imported_is_seen(tmp_path: Path) -> None:
    code, imported = start(tmp_path, "make_log", "--out", "log.parquet", "--log.users", "3")
    assert code == DONE
    assert {"numpy", "pyarrow"} <= set(imported.split())


def test_the_jobs_of_every_night_import_neither_torchrec_nor_mlflow(tmp_path: Path) -> None:
    log = random_log(seed=3, items=9)
    train(log, tmp_path)
    write(log, tmp_path / "log.parquet")
    write(log.slice(0, 5).drop_columns(["timestamp"]), tmp_path / "candidates.parquet")
    both = ("--model", str(tmp_path / "model"), "--memories", "memories")
    for argv in (
        ("build_memory", *both, "--log", "log.parquet"),
        ("score_batch", *both, "--candidates", "candidates.parquet", "--out", "scores.parquet"),
    ):
        code, imported = start(tmp_path, *argv)
        assert code == DONE
        assert {"torch", "lmdb"} <= set(imported.split())
        assert not {"torchrec", "mlflow", "sklearn", "matplotlib"} & set(imported.split())


def test_kinds_of_machines_are_known_without_the_machines() -> None:
    assert list(MACHINE_KINDS) == list(MACHINES)
    assert all(MACHINES[kind].config_type is settings for kind, settings in MACHINE_KINDS.items())
