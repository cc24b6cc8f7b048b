"""How long jobs take to start: process time of help, of a refused argument, of a missing input, and of small nights.

python benchmarks/start_speed.py [--repeats 3] [--checkout FOLDER]

Each figure is the median of runs in new processes, user and system time with that of their children. `--checkout` times
the same jobs of another checkout of rm-rec, in turns. The nights are those of a log of 200 users and 41,000 events, of
which a tenth is new, and of a model of one epoch. The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

Figures = dict[str, list[float]]  # process seconds by what was timed, one for each checkout
HERE = Path(__file__).parents[1]
# What the work itself refuses: an input that does not exist.
ERRORS = {
    "build_memory": ("--model", "none", "--memories", "memories", "--log", "none.parquet"),
    "compare_machines": ("--data", "none", "--logs", "movielens", "--logs_of_best", ""),
    "evaluate": ("--predictions", "none.parquet"),
    "make_log": ("--out", "/dev/null/log.parquet"),
    "memories": ("inspect", "--memories", "none"),
    "promote": ("--name", "none", "--rollback"),
    "retention": ("--run", "none"),
    "score_batch": ("--model", "none", "--memories", "none", "--candidates", "none.parquet", "--out", "s.parquet"),
    "train_ctr": ("--data.log", "none.parquet"),
}


def seconds_of(checkout: Path, folder: Path, job: str, argv: tuple[str, ...], code: int = 0) -> float:
    """Measure the process time of one run of a job in a folder; it has to end with this exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-m", f"pipelines.{job}", *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != code:
        raise SystemExit(f"{job} {' '.join(argv)} exited with {ended.returncode}, expected {code}: {ended.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_starts(checkouts: list[Path], repeats: int) -> Figures:
    """Time help and errors of every job."""
    figures: Figures = {}
    for job, wrong in ERRORS.items():
        action = ("inspect",) if job == "memories" else ()
        ways = {
            "--help": ((*action, "--help"), 0),
            "refused": ((*action, "--no_such_key", "3"), 2),
            "error": (wrong, 2),
        }
        for way, (argv, code) in ways.items():
            rounds = []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as folder:
                    rounds.append([seconds_of(checkout, Path(folder), job, argv, code) for checkout in checkouts])
            show(figures, f"{job} {way}", rounds)
    return figures


def time_nights(checkouts: list[Path], repeats: int) -> Figures:
    """Time the jobs that follow training, on a small model and log."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds_of(
            HERE, folder, "make_log", ("--out", "log.parquet", "--log.users", "200", "--log.events_per_user", "200")
        )
        log = pq.read_table(folder / "log.parquet").sort_by("timestamp")
        pq.write_table(log.slice(0, len(log) * 9 // 10), folder / "earlier.parquet")
        pq.write_table(log.slice(len(log) * 9 // 10), folder / "day.parquet")
        recipe = ("--config", "quickstart", "--data.log", "log.parquet", "--training.epochs", "1")
        named = ("--tracking.register_as", "small")
        seconds_of(HERE, folder, "train_ctr", (*recipe, *named, "--out", "run"))
        rounds: dict[str, list[list[float]]] = {}
        for repeat in range(repeats):
            for checkout in checkouts:
                store = ("--memories", f"memories-{repeat}-{checkouts.index(checkout)}")
                scores = (
                    "--candidates",
                    "day.parquet",
                    "--out",
                    f"{store[1]}.parquet",
                    "--columns.prediction",
                    "score",
                )
                both, promoted = (
                    ("--model", "run", *store),
                    ("--name", "small", "--log", "log.parquet", "--baseline", "run"),
                )
                jobs = {
                    "build_memory, first": ("build_memory", (*both, "--log", "earlier.parquet")),
                    "score_batch": ("score_batch", (*both, *scores)),
                    "build_memory, one day": ("build_memory", (*both, "--log", "day.parquet")),
                    "build_memory, models:/": (
                        "build_memory",
                        ("--model", "models:/small@candidate", *store, "--log", "day.parquet"),
                    ),
                    "memories inspect": ("memories", ("inspect", *store)),
                    "promote": ("promote", (*promoted, *store, "--dry-run")),
                    "evaluate --model": (
                        "evaluate",
                        ("--model", "run", "--data.log", "log.parquet", "--out", "report"),
                    ),
                }
                for name, (job, argv) in jobs.items():
                    seconds = seconds_of(checkout, folder, job, argv, 3 if job == "promote" else 0)
                    rounds.setdefault(name, [[] for _ in range(repeats)])[repeat].append(seconds)
        for name, times in rounds.items():
            show(figures, name, times)
    return figures


def show(figures: Figures, name: str, rounds: list[list[float]]) -> None:
    """Print and keep the medians of rounds, in each of which every checkout was timed once."""
    figures[name] = [round(statistics.median(times), 2) for times in zip(*rounds, strict=True)]
    print(f"{name:28}" + "".join(f"{value:8.2f}" for value in figures[name]), flush=True)


def main() -> None:
    """Print a line for each way to start a job: process seconds in each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkout", type=Path, help="another checkout, timed first")
    given = parser.parse_args()
    checkouts = [HERE] if given.checkout is None else [given.checkout.resolve(), HERE]
    figures = time_starts(checkouts, given.repeats) | time_nights(checkouts, given.repeats)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
