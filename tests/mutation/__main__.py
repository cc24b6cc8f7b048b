"""Do the tests notice? Changes the code in small ways, one at a time, and runs the tests that execute the changed line.

    python -m tests.mutation                                   # a sample; a killed run goes on where it was
    python -m tests.mutation --again survived --seconds 300    # those that survived, with further tests
    python -m tests.mutation --without end_to_end              # a first pass, with the quick tests alone
    python -m tests.mutation --report report.md                # what is known so far, as Markdown

A mutant is killed where a test fails, or where the tests use far more time than they need. One that survives is a hole
in the tests, or changes nothing: then equivalent.toml says why, and the report counts it apart. Which files of tests
execute which lines is found by one run of each under coverage, child processes included, and kept in `--out`; after a
change to the code it is found anew.

Why not mutmut 3 or cosmic-ray. mutmut changes the bodies of functions without decorators, with all versions of one
behind a switch: settings with their bounds, properties and `no_grad` functions stay as they are, the switches change
what signatures and doctests show, and which tests run a function it sees in its own process alone, while the jobs here
run in processes of their own. cosmic-ray runs one command for each mutant in a new process: imports would take longer
than most tests, and no mutant is matched with its tests. Neither draws a sample that a seed determines.
"""

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutation import results as ends
from tests.mutation.checkouts import copy_project, digest, modules, replace_file, support_files, test_files
from tests.mutation.children import NOT_RUN, Ended, Tests, import_heavy_packages, run_all
from tests.mutation.covering import Coverage, find_coverage
from tests.mutation.mutators import Mutant
from tests.mutation.sample import sample

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Try the mutants that are not tried yet, and report."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the children too
    out: Path = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    mutants = sample(ROOT, arguments.mutants, arguments.seed, arguments.at_least)
    known = ends.read_results(results)
    missing = [m for m in mutants if m.key not in known or known[m.key].outcome in arguments.again]
    missing = [m for m in missing if arguments.only in f"{m.module}:{m.at.line}"]
    if missing and not arguments.report:
        import_heavy_packages()
        base = _base(out)
        coverage = find_coverage(base, out, arguments.workers, arguments.without, anew=arguments.cover_anew, say=_say)
        for done, result in enumerate(_tried(missing, coverage, base, out, arguments), 1):
            ends.add_result(results, result)
            _say(f"{done}/{len(missing)} {result.outcome} {result.module}:{result.line} {result.kind}: {result.said}")
    known = ends.read_results(results)
    equivalents = ends.read_equivalents(Path(__file__).parent / "equivalent.toml")
    text = ends.report((known[mutant.key] for mutant in mutants if mutant.key in known), equivalents)
    (arguments.report or out / "report.md").write_text(text)
    print(text.partition("\n## ")[0])
    return 0


def _tried(
    mutants: list[Mutant], coverage: Coverage, base: Path, out: Path, arguments: argparse.Namespace
) -> Iterator[ends.Result]:
    known = ends.read_results(out / "results.jsonl")
    chosen = {mutant.key: _chosen(mutant, known.get(mutant.key), coverage, arguments.seconds) for mutant in mutants}

    def result(mutant: Mutant, outcome: str, said: str, seconds: float = 0.0) -> ends.Result:
        choice, before = chosen[mutant.key], known.get(mutant.key)
        ran = choice.passed | {name: coverage.files[name].content for name in choice.files}
        spent = before.seconds if before is not None and choice.passed else 0.0
        return ends.Result.of(mutant, outcome, said, spent + seconds, ran, choice.left_out)

    def queue() -> Iterator[Tests[tuple[Mutant, Path]]]:
        for number, mutant in enumerate(mutants):
            if files := chosen[mutant.key].files:
                copy = out / f"mutant-{number}"
                shutil.rmtree(copy, ignore_errors=True)
                copy_project(base, copy)
                replace_file(copy / mutant.module, mutant.source((copy / mutant.module).read_bytes()))
                limit = 15 + 2 * sum(coverage.files[name].seconds for name in files)
                yield Tests((mutant, copy), copy, tuple(files), limit)

    for mutant in mutants:
        if not chosen[mutant.key].files:
            yield result(mutant, ends.SURVIVED, "no further test runs it")
    for (mutant, copy), ended in run_all(queue(), arguments.workers):
        shutil.rmtree(copy, ignore_errors=True)
        yield result(mutant, _outcome(ended), ended.last_line, ended.seconds)


def _outcome(ended: Ended) -> str:
    if ended.status is None:
        return ends.TIMED_OUT
    if ended.status == NOT_RUN:
        return ends.BROKEN
    return ends.SURVIVED if ended.passed else ends.KILLED


@dataclass(frozen=True)
class _Choice:
    files: list[str]
    passed: dict[str, str]
    left_out: int


def _chosen(mutant: Mutant, known: ends.Result | None, coverage: Coverage, seconds: float) -> _Choice:
    """Choose a mutant's files of tests, one at least and so many seconds of them at most, but for those that passed."""
    covering = coverage.covering(mutant.module, mutant.at.first, mutant.at.last)
    ran = known.ran if known is not None and known.outcome == ends.SURVIVED else {}
    passed = {name: ran[name] for name in covering if coverage.files[name].content == ran.get(name)}
    files: list[str] = []
    for name in covering:
        spent = sum(coverage.files[other].seconds for other in files)
        if name not in passed and (not files or spent + coverage.files[name].seconds <= seconds):
            files.append(name)
    return _Choice(files, passed, len(covering) - len(passed) - len(files))


def _base(out: Path) -> Path:
    """Copy the project as it is now; the copy of before is kept, with its bytecode, where nothing has changed."""
    base, seal = out / "checkout", out / "checkout.txt"
    now = digest(ROOT, [*modules(ROOT), *test_files(ROOT), *support_files(ROOT)])
    if not (seal.exists() and seal.read_text() == now and base.exists()):
        shutil.rmtree(base, ignore_errors=True)
        copy_project(ROOT, base)
        every_test = Tests("imports", base, ("tests",), 600, compiles=True, options=("--collect-only",))
        list(run_all(iter([every_test]), workers=1))
        seal.write_text(now)
    return base


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=180, help="how many mutants are drawn (%(default)s)")
    parser.add_argument("--at-least", type=int, default=50, help="fewest mutants of a package (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which sample is drawn (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40, help="process time of a mutant's tests (%(default)s)")
    parser.add_argument(
        "--without", nargs="*", default=(), help="leave out files of tests with one of these in the path"
    )
    parser.add_argument("--only", default="", help="only mutants with this in MODULE:LINE")
    parser.add_argument("--again", choices=ends.OUTCOMES, nargs="*", default=(), help="try those of this outcome again")
    parser.add_argument("--cover-anew", action="store_true", help="find anew which tests execute which lines")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mutation", help="folder of what is kept")
    parser.add_argument("--report", type=Path, help="only write the report, to this file")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
