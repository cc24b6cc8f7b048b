"""How long jobs take to start: process time of help, of a refused argument, and of an input that does not exist.

python benchmarks/start_speed.py [--repeats 3] [--checkout FOLDER]

Each figure is the median of runs in new processes, user and system time with that of their children. `--checkout` times
the same jobs of another checkout of rm-rec, in turns. The last line is JSON.
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


def seconds_of(checkout: Path, job: str, argv: tuple[str, ...], code: int) -> float:
    """Measure the process time of one run of a job, which has to end with this exit code."""
    with tempfile.TemporaryDirectory() as folder:
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


def main() -> None:
    """Print a table: one row for each job, one figure for each way to start it and each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkout", type=Path, help="another checkout, timed first")
    given = parser.parse_args()
    checkouts = [HERE] if given.checkout is None else [given.checkout.resolve(), HERE]
    figures: dict[str, dict[str, list[float]]] = {}
    print(f"{'job':18}{'--help':>16}{'refused':>16}{'error':>16}")
    for job, wrong in ERRORS.items():
        action = ("inspect",) if job == "memories" else ()
        ways = {"help": ((*action, "--help"), 0), "refused": ((*action, "--no_such_key", "3"), 2), "error": (wrong, 2)}
        figures[job] = {}
        for way, (argv, code) in ways.items():
            rounds = [[seconds_of(folder, job, argv, code) for folder in checkouts] for _ in range(given.repeats)]
            figures[job][way] = [round(statistics.median(times), 2) for times in zip(*rounds, strict=True)]
        row = (" -> ".join(f"{value:.2f}" for value in values) for values in figures[job].values())
        print(f"{job:18}" + "".join(f"{cell:>16}" for cell in row), flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
