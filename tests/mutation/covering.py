"""Which files of tests execute which lines: found by running each once under coverage, kept until the code changes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation.checkouts import PACKAGES, digest, modules, support_files, test_files
from tests.mutation.children import Ended, Tests, run_all

_FORMAT = 1
_LIMIT_SECONDS = 900.0
# Every process that a test starts measures itself, whatever its environment: each one's path begins with the copy.
_SITE = """import sys

sys.path.append({library!r})
try:
    import coverage

    coverage.process_startup()
finally:
    sys.path.remove({library!r})
"""
_SETTINGS = """[run]
data_file = {data}
parallel = true
sigterm = true
concurrency = multiprocessing,thread
disable_warnings = no-data-collected,module-not-imported,module-not-measured,couldnt-parse
include = {include}
"""

_Found = tuple[str, Ended, dict[str, list[int]]]


@dataclass(frozen=True)
class TestFile:
    """What one file of tests takes, and the lines of each module that it executes."""

    content: str
    """Hash of the file and of all that it may import: what it found holds as long as this is the same."""
    seconds: float
    passed: bool
    said: str
    lines: dict[str, list[int]]


@dataclass(frozen=True)
class Coverage:
    """The files of tests by their path."""

    files: dict[str, TestFile]

    def covering(self, module: str, first: int, last: int) -> list[str]:
        """List files of tests that pass and execute a statement: first those named for its module, then the quickest.

        What is executed as a module is imported, every file that imports it executes: those that execute more of the
        module than that come before those that do not.
        """
        wanted = range(first, last + 1)
        passed = {name: found for name, found in self.files.items() if found.passed}
        users = {name: set(found.lines[module]) for name, found in passed.items() if module in found.lines}
        covering = [name for name, lines in users.items() if any(line in lines for line in wanted)]
        imported = set.intersection(*users.values()) if users else set()
        stem = Path(module).stem

        def order(name: str) -> tuple[bool, bool, float]:
            about = stem in Path(name).stem
            return (not about, users[name] <= imported, self.files[name].seconds)

        return sorted(covering, key=order)


def find_coverage(
    copy: Path, folder: Path, workers: int, without: Sequence[str], *, anew: bool, say: Callable[[str], None]
) -> Coverage:
    """Read what is known of each file of tests, and run those of which nothing is known, or that changed since."""
    cache = folder / "coverage.json"
    tests = {str(path.relative_to(copy)): path for path in test_files(copy)}
    code = digest(copy, [*modules(copy), *support_files(copy)])
    known: dict[str, TestFile] = {}
    if cache.exists() and not anew:
        kept = json.loads(cache.read_text())
        if kept["format"] == _FORMAT:
            known = {name: TestFile(**found) for name, found in kept["files"].items()}
    contents = {name: f"{code}-{digest(copy, [path])}" for name, path in tests.items()}
    known = {name: found for name, found in known.items() if contents.get(name) == found.content}
    wanted = [name for name in tests if not any(word in name for word in without)]
    missing = [name for name in wanted if name not in known]
    if missing:
        say(f"{len(missing)} files of tests are run under coverage")
    if missing:
        for name, ended, lines in _without_failures(copy, _run(copy, folder, missing, workers)):
            known[name] = TestFile(contents[name], round(ended.seconds, 2), ended.passed, ended.last_line, lines)
            say(f"  {name}: {ended.seconds:.1f} s{'' if ended.passed else ', left out: ' + ended.last_line}")
            text = json.dumps({"format": _FORMAT, "files": {n: asdict(f) for n, f in known.items()}})
            cache.with_suffix(".draft").write_text(text)
            cache.with_suffix(".draft").replace(cache)
    return Coverage({name: known[name] for name in wanted})


def _run(copy: Path, folder: Path, names: list[str], workers: int) -> Iterator[_Found]:
    import coverage

    site = copy / "sitecustomize.py"
    site.write_text(_SITE.format(library=str(Path(coverage.__file__).parents[1])))
    include = ",".join(f"{copy / package}/*" for package in PACKAGES)

    def queue() -> Iterator[Tests[str]]:
        for number, name in enumerate(names):
            data = folder / f"data-{number}"
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir()
            settings = data / "settings"
            settings.write_text(_SETTINGS.format(data=data / "lines", include=include))
            variables = (("COVERAGE_PROCESS_START", str(settings)),)
            yield Tests(name, copy, (name,), _LIMIT_SECONDS, (), True, variables, _measure)

    for name, ended in run_all(queue(), workers):
        data = folder / f"data-{names.index(name)}"
        lines: dict[str, set[int]] = {}
        for path in data.glob("lines.*"):
            measured = coverage.CoverageData(str(path))
            try:
                measured.read()
            except coverage.exceptions.CoverageException:
                continue  # of a process that was killed as it wrote
            for file in measured.measured_files():
                lines.setdefault(os.path.relpath(file, copy), set()).update(measured.lines(file) or ())
        shutil.rmtree(data)
        yield name, ended, {file: sorted(found) for file, found in sorted(lines.items())}
    site.unlink()


def _without_failures(copy: Path, found: Iterator[_Found]) -> Iterator[_Found]:
    """Run again without coverage what failed with it: tests of full disks and of memory feel that they are measured."""
    for name, ended, lines in found:
        if not ended.passed:
            ((_, ended),) = run_all(iter([Tests(name, copy, (name,), _LIMIT_SECONDS)]), workers=1)
        yield name, ended, lines


def _measure() -> Callable[[], None]:
    import coverage

    measuring = coverage.Coverage(config_file=os.environ["COVERAGE_PROCESS_START"])
    measuring.start()

    def stop() -> None:
        measuring.stop()
        measuring.save()

    return stop
