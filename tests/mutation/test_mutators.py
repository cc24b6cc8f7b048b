"""The mutants of small pieces of code, the sample that is drawn of them, and the report."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutation import sample as samples
from tests.mutation.mutators import find_mutants, is_change
from tests.mutation.results import KILLED, SURVIVED, Result, report

MODULE = "rm_rec/piece.py"
MUTANTS = [
    ("f(a < b)", "comparison", "f(a <= b)"),
    ("f(a not in (b))", "comparison", "f(a in (b))"),
    ("f((a) is not None)", "comparison", "f((a) is None)"),
    ("x = a and b or c", "and/or", "x = a or b or c"),
    ("x = a and b or c", "and/or", "x = a and b and c"),
    ("x = not (a or b)", "not dropped", "x = (a or b)"),
    ("def f(): x = a + -b", "arithmetic", "def f(): x = a - -b"),
    ("def f(): x = a ** b", "arithmetic", "def f(): x = a * b"),
    ("x = values[2]", "integer off by one", "x = values[3]"),
    ("x = values[2]", "integer off by one", "x = values[1]"),
    ("x = True", "True/False", "x = False"),
    ("if a: b()", "condition", "if not (a): b()"),
    ("if a: b()", "condition", "if True: b()"),
    ("while a: b()", "condition", "while False: b()"),
    ("x = a if b else c", "condition", "x = a if not (b) else c"),
    ("x = [a for a in b if a]", "condition", "x = [a for a in b if True]"),
    ("def f(): return a", "return None", "def f(): return None"),
    ("a.clear()", "statement dropped", "pass"),
    ("a[i] = b", "statement dropped", "pass"),
    ("for a in b: break", "break/continue", "for a in b: continue"),
    ("def f(a=0.5): ...", "default", "def f(a=1.5): ..."),
    ("class A:\n    a: int = 3", "default", "a: int = 4"),
    ("if a:\n    raise E(b == c)", "raise dropped", "pass"),
    ("f(a, b=1, c=d)", "keyword argument dropped", "f(a, c=d)"),
    ("f(a, b=1, c=d)", "keyword argument dropped", "f(a, b=1)"),
    ("f(b=1)", "keyword argument dropped", "f()"),
    ("x = a[b:c]", "slice off by one", "x = a[(b) + 1:c]"),
    ("x = a[b:c]", "slice off by one", "x = a[b:(c) - 1]"),
    ("x = 'é' if a == b else d", "comparison", "x = 'é' if a != b else d"),
]
LEFT_ALONE = [
    '"""A docstring."""',
    "x: Literal[1, True]",
    "def f(a: Shape[1]) -> Shape[2]: ...",
    "@decorated(1, a=True)\nclass A: ...",
    "__all__ = ['a'] + ['b']",
    "if TYPE_CHECKING:\n    import a",
    "assert a == b, f(1)",
    "print(a + b)",
    "console.print(a + b)",
    "with Progress('training', a + 1): ...",
    "x = f'{a + 1}'",
    "Kind: TypeAlias = a | b",
    "x = Field(description=a + b)",
    "x = zip(a, b, strict=True)",
]


@pytest.mark.parametrize(("source", "kind", "after"), MUTANTS)
def test_a_change_is_made(source: str, kind: str, after: str) -> None:
    found = [mutant for mutant in find_mutants(MODULE, source.encode()) if mutant.kind == kind]
    assert after in [mutant.after for mutant in found]
    assert all(is_change(source.encode(), mutant) for mutant in found)


@pytest.mark.parametrize("source", LEFT_ALONE)
def test_what_is_no_behaviour_is_left_alone(source: str) -> None:
    assert [mutant.after for mutant in find_mutants(MODULE, source.encode())] == []


def test_a_change_over_several_lines_is_told_in_one() -> None:
    source = b"def f():\n    return g(\n        a,  # why\n        b=1,\n    )\n"
    (mutant,) = [mutant for mutant in find_mutants(MODULE, source) if mutant.kind == "keyword argument dropped"]
    assert (mutant.before, mutant.after) == ("b=1, )", ")")
    assert (mutant.at.line, mutant.at.first, mutant.at.last) == (4, 2, 5)
    assert mutant.source(source) == b"def f():\n    return g(\n        a,  # why\n        )\n"


def test_what_does_not_compile_or_means_the_same_is_no_change() -> None:
    source = b"for a in b:\n    if c:\n        pass\n"
    condition, *_ = find_mutants(MODULE, source)
    assert is_change(source, condition)
    assert not is_change(source, replace(condition, replacement="( c )"))
    assert not is_change(source, replace(condition, replacement="else"))


def packages(root: Path, folder: str) -> Path:
    for package, lines in (("rm_rec", 60), ("feature_store", 20), ("pipelines", 20)):
        path = root / package / folder
        path.mkdir(parents=True)
        (path / "piece.py").write_text("".join(f"f{line}(a == {line}, b=not c)\n" for line in range(lines)))
    return root


def test_a_sample_is_spread_and_moving_a_module_leaves_it(tmp_path: Path) -> None:
    drawn = samples.sample(packages(tmp_path / "before", "."), number=30, seed=0, at_least=8)
    counts = Counter(mutant.module.partition("/")[0] for mutant in drawn)
    assert counts == {"rm_rec": 18, "feature_store": 8, "pipelines": 8}
    assert len({mutant.kind for mutant in drawn}) == 5
    moved = samples.sample(packages(tmp_path / "after", "folder"), number=30, seed=0, at_least=8)
    assert [mutant.key for mutant in moved] == [mutant.key for mutant in drawn]
    other = samples.sample(tmp_path / "before", number=30, seed=1, at_least=8)
    assert [mutant.key for mutant in other] != [mutant.key for mutant in drawn]


def test_the_report_counts_equivalent_mutants_apart() -> None:
    mutants = find_mutants(MODULE, b"f(a < b)\ng(a < b)\nh(a < b)\n")
    swapped = [mutant for mutant in mutants if mutant.kind == "comparison"]
    ends = (KILLED, SURVIVED, SURVIVED)
    pairs = zip(swapped, ends, strict=True)
    results = [Result.of(mutant, end, "", 1.0, {"tests/test_a.py": "0"}, 0) for mutant, end in pairs]
    text = report(results, {("piece.py", "h(a < b)", "h(a <= b)"): "b is no number."})
    assert "| rm_rec | 3 | 1 | 0 | 1 | 1 | 0 | 50% |" in text
    survivors, equivalent = text.split("## Equivalent")
    assert "+ g(a <= b)" in survivors
    assert "h(a" not in survivors
    assert "b is no number." in equivalent
