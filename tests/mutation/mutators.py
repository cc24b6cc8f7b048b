"""Mutants: modules with one small change each, which some test ought to notice."""

import ast
from collections import Counter
from dataclasses import dataclass

from tests.mutation.changes import Finder


@dataclass(frozen=True)
class Statement:
    """Where a change begins, and the lines of the statement that it is in, from 1; of a block, those of its head."""

    line: int
    first: int
    last: int


@dataclass(frozen=True)
class Mutant:
    """One change to one module: bytes from `start` to `stop` are replaced."""

    module: str
    kind: str
    at: Statement
    start: int
    stop: int
    replacement: str
    before: str
    after: str
    number: int = 0
    """Which of the module's mutants of this kind, before and after it is, where several look alike."""

    def source(self, original: bytes) -> bytes:
        """Return the changed module."""
        return original[: self.start] + self.replacement.encode() + original[self.stop :]

    @property
    def key(self) -> str:
        """What names the mutant wherever its module lies, as long as its line is the same."""
        return "|".join((self.module.rpartition("/")[2], self.kind, self.before, self.after, str(self.number)))


def find_mutants(module: str, source: bytes) -> list[Mutant]:
    """List the changes that could be made to a module, in the order of its text; `is_change` tells which are any."""
    finder = Finder(source)
    finder.visit(ast.parse(source))
    lines = source.split(b"\n")
    found: list[Mutant] = []
    alike: Counter[tuple[str, str, str]] = Counter()
    for change in sorted(finder.changes, key=lambda change: (change.start, change.stop, change.replacement)):
        line, last = finder.line(change.start), finder.line(change.stop)
        # From the start of its first line to the end of its last.
        head = source[finder.begin(line) : change.start]
        tail = source[change.stop : finder.begin(last) + len(lines[last - 1])]
        before = _joined(head + source[change.start : change.stop] + tail)
        after = _joined(head + change.replacement.encode() + tail)
        number = alike[change.kind, before, after]
        alike[change.kind, before, after] += 1
        place = (Statement(line, change.first, change.last), change.start, change.stop)
        found.append(Mutant(module, change.kind, *place, change.replacement, before, after, number))
    return found


def is_change(original: bytes, mutant: Mutant) -> bool:
    """Whether a mutant compiles and means something else than the original to the parser."""
    changed = mutant.source(original)
    try:
        compile(changed, mutant.module, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return ast.dump(ast.parse(changed)) != ast.dump(ast.parse(original))


def _joined(text: bytes) -> str:
    return " ".join(line.strip() for line in text.decode().split("\n")).strip()
