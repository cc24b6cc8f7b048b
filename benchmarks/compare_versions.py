"""Whether two versions of this repository compute the same: losses, memories and scores from the same weights.

python benchmarks/compare_versions.py --before REVISION [--log FILE --recipe FILE]... [--data FOLDER] [--out FOLDER]
    [--users 100] [--epochs 2] [--model.machine.kind ntm ...]

Before is a Git revision, checked out for the while; after is the working tree. Both are driven by their own command
lines. Without --log, the log is the quickstart's, of fewer users; --data FOLDER adds its delicious_tags.parquet. What
is not known here goes to the first training, whose model all that follows has.

The version before trains a model, without dropout and rehearsal. From its files both versions predict the log, build
memories in three nights, score candidates, and train further: once with learning rates of 1e-12, where the losses are
those of the same weights, and once as usual, in a few steps of large batches. Adam amplifies the last bits of float32,
where a gradient is nearly zero to steps of full size, so that the latter is compared within ten times the noise: what
the version before differs from itself with learning rates that are larger by a millionth. After some hundred steps two
runs of one version are so far apart that nothing could be told. Exits with 1 where something differs.
"""

import argparse
import datetime
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from rich.table import Table
from version_differences import Finding, journals, memories, numbers, predictions
from version_jobs import WORKING_TREE, Log, Version, VersionFailed

from feature_store.errors import DataError
from feature_store.stores import open_store
from pipelines.cli.job import DONE, FAILED, result_console, run_job

RECIPES = Path("pipelines") / "recipes"
CLOSE = 1e-6
FEW_STEPS = ("--training.min_batches", 1, "--training.batch_events", 100_000)
MOST_NOISE = 1e-2  # a comparison that allows more says nothing, and counts as a difference
LEAST_NOISE, TIMES_NOISE = 1e-6, 10.0
STANDSTILL = ("--optimizer.lr", "1e-12", "--optimizer.embedding_lr", "1e-12")
# The defaults, and a millionth more.
USUAL = ("--optimizer.lr", "0.003", "--optimizer.embedding_lr", "0.01")
NUDGED = ("--optimizer.lr", "0.003000003", "--optimizer.embedding_lr", "0.01000001")
Result = TypeVar("Result")


class Comparison:
    """The same work of two versions on one log."""

    def __init__(self, before: Version, after: Version, log: Log, epochs: int) -> None:
        self.before, self.after, self.log, self.epochs = before, after, log, epochs

    def both(self, work: Callable[[Version], Result]) -> tuple[Result, Result]:
        """Let both versions do some work at once."""
        with ThreadPoolExecutor(2) as pool:
            before, after = pool.map(work, (self.before, self.after))
        return before, after

    def findings(self, first_training: Sequence[str]) -> Iterator[Finding]:
        """Do all that is compared, one after the other."""
        out, log = self.before.folder.parent, self.log
        no_dropout = ("--model.token_dropout", 0, "--training.epochs", self.epochs)
        model = self.before.train(log, "first", *no_dropout, *first_training)
        yield predictions_of("predictions of the log", *self.both(lambda version: version.predict(log, model)), CLOSE)

        nights, candidates = log.cut(out / "nights")
        stores = self.both(lambda version: version.build(model, nights))
        with open_store(stores[0]) as ours, open_store(stores[1]) as theirs:
            yield from memories(f"memories of {len(nights)} nights", ours, theirs, CLOSE)
            yield journals("what the nights' builds count", ours.journal(), theirs.journal())
        scores, own = self.both(
            lambda version: version.score(model, stores[version is self.after], candidates, "scores.parquet")
        )
        yield predictions_of("scores from memories", scores, own, CLOSE)
        read = self.after.score(model, stores[0], candidates, "scores-of-memories-before.parquet")
        yield predictions_of("scores after from memories before", scores, read, CLOSE)

        step = ("--from", model / "model", "--training.epochs", 1, *STANDSTILL)
        runs = self.both(lambda version: version.train(log, "standstill", *step))
        yield from trained("an epoch at a standstill", *runs, (CLOSE, CLOSE))

        on = ("--from", model / "model", "--training.epochs", self.epochs, *FEW_STEPS)
        runs = self.both(lambda version: version.train(log, "further", *on, *USUAL))
        again = self.before.train(log, "nudged", *on, *NUDGED)
        noise = [finding.difference for finding in trained("noise", runs[0], again, (0.0, 0.0))]
        bounds = [min(MOST_NOISE, max(LEAST_NOISE, TIMES_NOISE * value)) for value in noise]
        found = trained(f"{self.epochs} epochs of few steps more", *runs, bounds)
        for finding, floor in zip(found, noise, strict=True):
            yield Finding(finding.what, finding.difference, finding.tolerance, finding.note or f"noise {floor:.1e}")


def predictions_of(what: str, before: Path, after: Path, tolerance: float) -> Finding:
    """Compare two files of predictions."""
    return predictions(what, pq.read_table(before), pq.read_table(after), tolerance)


def trained(what: str, before: Path, after: Path, tolerances: Sequence[float]) -> list[Finding]:
    """Compare two training runs: losses and validation AUC of the epochs, then the predictions."""
    ours, theirs = (
        {
            f"{name} of epoch {epoch['number']}": epoch[name]
            for epoch in json.loads((run / "metrics.json").read_text())["epochs"]
            for name in ("loss", "validation_auc")
        }
        for run in (before, after)
    )
    files = (run / "predictions.parquet" for run in (before, after))
    return [
        numbers(f"{what}: losses and AUC", ours, theirs, tolerances[0]),
        predictions_of(f"{what}: predictions", *files, tolerances[1]),
    ]


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """Check a revision out beside the working tree, for the while; DataError where there is none of this name."""
    git = [shutil.which("git") or "git", "-C", str(WORKING_TREE), "worktree"]
    ended = subprocess.run(
        [*git, "add", "--detach", str(folder), revision], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        *_, said = ["", *ended.stderr.splitlines()]
        raise DataError(f"--before {revision}: Git cannot check it out ({said}); name a commit, a branch or a tag")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True, check=False)


def logs_of(arguments: argparse.Namespace, before: Version) -> list[Log]:
    """Return the logs that were named, or the synthetic one, made by the version before."""
    if len(arguments.log) != len(arguments.recipe):
        raise DataError(f"{len(arguments.log)} --log and {len(arguments.recipe)} --recipe; give each log its recipe")
    named = zip(arguments.log, arguments.recipe, strict=True)
    logs = [Log(Path(log).stem, Path(log).resolve(), Path(recipe).resolve()) for log, recipe in named]
    if not logs:
        path = before.folder / "synthetic.parquet"
        before.run("-m", "pipelines.make_log", "--out", path, "--log.users", arguments.users)
        logs = [Log("quickstart", path, RECIPES / "quickstart.yaml")]
    if arguments.data is not None:
        path = Path(arguments.data).resolve() / "delicious_tags.parquet"
        logs.append(Log("delicious_tags", path, RECIPES / "delicious_tags.yaml"))
    for log in logs:
        for file in (log.path, WORKING_TREE / log.recipe):
            if not file.exists():
                raise DataError(f"{file} is not there; name a file that is")
    return logs


def rows_of(findings: Sequence[tuple[str, Finding]]) -> list[tuple[str, ...]]:
    """Write findings for a table."""
    return [
        (
            log,
            found.what,
            f"{found.difference:.1e}",
            f"{found.tolerance:.1e}",
            "yes" if found.equal else "NO",
            found.note,
        )
        for log, found in findings
    ]


HEADER = ("log", "what", "largest difference", "tolerance", "equal", "note")


def write(out: Path, facts: dict[str, Any], findings: Sequence[tuple[str, Finding]]) -> None:
    """Write a dated report: JSON for programs, Markdown for people."""
    out.mkdir(parents=True, exist_ok=True)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    path = out / f"{today}-compare_versions.md"
    lines = [HEADER, tuple("---" for _ in HEADER), *rows_of(findings)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    path.write_text(f"# Two versions compared\n\n{said}\n\n{table}\n", encoding="utf-8")
    results = [{"log": log, **asdict(found), "equal": found.equal} for log, found in findings]
    for values in results:
        if not math.isfinite(values["difference"]):
            values["difference"] = None  # JSON has no infinity
    text = json.dumps({**facts, "findings": results}, indent=2, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    """Compare the versions on all logs, print the table, and say by the exit code whether all is equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--before", required=True, help="a Git revision")
    parser.add_argument("--log", action="append", default=[], help="a log in Parquet, with a --recipe each")
    parser.add_argument("--recipe", action="append", default=[], help="the log's settings of train_ctr, in YAML")
    parser.add_argument("--data", help="a folder with delicious_tags.parquet")
    parser.add_argument("--users", type=int, default=100, help="of the synthetic log")
    parser.add_argument("--epochs", type=int, default=2, help="of each training")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, in each of two jobs at a time")
    parser.add_argument("--out", help="folder for a dated report")
    arguments, first_training = parser.parse_known_args(argv)
    console, findings = result_console(), []
    with (
        tempfile.TemporaryDirectory(prefix="compare-versions-") as folder,
        checked_out(arguments.before, Path(folder) / "checkout") as checkout,
    ):
        work = Path(folder)
        logs = logs_of(arguments, Version("before", checkout, work / "log", arguments.threads))
        for log in logs:
            place = work / log.name
            before = Version("before", checkout, place / "before", arguments.threads)
            after = Version("after", WORKING_TREE, place / "after", arguments.threads)
            before.check()
            after.check()
            try:
                for found in Comparison(before, after, log, arguments.epochs).findings(first_training):
                    findings.append((log.name, found))
                    console.print(f"{log.name}: {found.what}: {found.difference:.1e} {found.note}")
            except VersionFailed as failure:
                findings.append((log.name, Finding("all jobs end well", math.inf, 0.0, str(failure))))
    table = Table(*HEADER, title=f"{arguments.before} and the working tree")
    for row in rows_of(findings):
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    if arguments.out is not None:
        write(Path(arguments.out), {"before": arguments.before, "command": " ".join(argv)}, findings)
    return DONE if all(found.equal for _, found in findings) else FAILED


if __name__ == "__main__":
    run_job(main)
