"""Which mutants are tried: a sample that a seed determines, the same when a module moves to another folder."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from tests.mutation.checkouts import PACKAGES, modules
from tests.mutation.mutators import Mutant, find_mutants, is_change

Name = TypeVar("Name")


def sample(root: Path, number: int, seed: int, at_least: int) -> list[Mutant]:
    """Draw mutants from each package, at least so many of one, and from its modules by what can be changed in them.

    Kinds of change take turns within a module: most changes that can be made are to integers, and they tell least.
    """
    found = {path: find_mutants(str(path.relative_to(root)), path.read_bytes()) for path in modules(root)}
    by_package = {
        package: {path: mutants for path, mutants in found.items() if path.relative_to(root).parts[0] == package}
        for package in PACKAGES
    }
    sizes = {package: sum(map(len, of.values())) for package, of in by_package.items()}
    drawn: list[Mutant] = []
    for package, share in _shares(sizes, number).items():
        of = by_package[package]
        shares = _shares({path: len(mutants) for path, mutants in of.items()}, max(share, at_least))
        for path, wanted in shares.items():
            drawn += _drawn(path.read_bytes(), of[path], wanted, seed)
    return sorted(drawn, key=lambda mutant: _rank(mutant, seed))


def _shares(sizes: Mapping[Name, int], number: int) -> dict[Name, int]:
    """Divide a number in proportion to sizes: the largest remainders are rounded up."""
    total = sum(sizes.values()) or 1
    exact = {name: number * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    rest = number - sum(shares.values())
    for name in sorted(exact, key=lambda name: (shares[name] - exact[name], str(name)))[:rest]:
        shares[name] += 1
    return shares


def _drawn(source: bytes, mutants: list[Mutant], wanted: int, seed: int) -> list[Mutant]:
    kinds: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants, key=lambda mutant: _rank(mutant, seed)):
        kinds[mutant.kind].append(mutant)
    # Which kind comes first is drawn too, from module to module.
    first = {kind: _hash(seed, Path(of[0].module).name, kind) for kind, of in kinds.items()}
    turns = [(turn, first[kind], mutant) for kind, of in kinds.items() for turn, mutant in enumerate(of)]
    drawn: list[Mutant] = []
    for _, _, mutant in sorted(turns, key=lambda turn: turn[:2]):
        if len(drawn) == wanted:
            break
        if is_change(source, mutant):
            drawn.append(mutant)
    return drawn


def _rank(mutant: Mutant, seed: int) -> str:
    return _hash(seed, mutant.key)


def _hash(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()
