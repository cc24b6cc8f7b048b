"""What became of each mutant: kept line by line as it is found, and reported as Markdown."""

import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutation.mutators import Mutant

KILLED, TIMED_OUT, SURVIVED, EQUIVALENT, BROKEN = "killed", "timed out", "survived", "equivalent", "not run"
OUTCOMES = (KILLED, TIMED_OUT, SURVIVED, EQUIVALENT, BROKEN)

_LISTED = ((SURVIVED, "Survivors"), (EQUIVALENT, "Equivalent"), (TIMED_OUT, "Timed out"), (BROKEN, "Not run"))


@dataclass(frozen=True)
class Result:
    """A mutant's end.

    `said` is pytest's last word; `ran`, the files of tests that were run, with what they were; `left_out`, how many
    more execute the line, for which there was no time.
    """

    key: str
    module: str
    line: int
    kind: str
    before: str
    after: str
    outcome: str
    said: str
    seconds: float
    ran: dict[str, str]
    left_out: int

    @staticmethod
    def of(mutant: Mutant, outcome: str, said: str, seconds: float, ran: dict[str, str], left_out: int) -> "Result":
        """Describe a mutant and its end."""
        where = (mutant.key, mutant.module, mutant.at.line, mutant.kind, mutant.before, mutant.after)
        return Result(*where, outcome, said, round(seconds, 1), ran, left_out)


def read_results(path: Path) -> dict[str, Result]:
    """Read what is known of mutants by their keys; the last word counts, and a line cut short is none."""
    found: dict[str, Result] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            result = Result(**json.loads(line))
        except json.JSONDecodeError:
            continue
        found[result.key] = result
    return found


def add_result(path: Path, result: Result) -> None:
    """Write a line more."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_equivalents(path: Path) -> dict[tuple[str, str, str], str]:
    """Read why mutants that change nothing do so: by the name of the module's file, the line before and after."""
    entries = tomllib.loads(path.read_text()).get("equivalent", [])
    return {(entry["file"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def report(results: Iterable[Result], equivalents: dict[tuple[str, str, str], str]) -> str:
    """Count what was killed, by package and by kind of change, and list what was not."""
    judged = [(_judged(result, equivalents), result) for result in results]
    lines = [*_table("package", judged, lambda result: result.module.partition("/")[0]), ""]
    lines += [*_table("kind of change", judged, lambda result: result.kind)]
    for outcome, title in _LISTED:
        those = sorted((r for o, r in judged if o == outcome), key=lambda result: (result.module, result.line))
        if not those:
            continue
        lines += ["", f"## {title}", ""]
        for result in those:
            why = equivalents.get(_name(result), "") if outcome == EQUIVALENT else _tests(result)
            lines += [f"- `{result.module}:{result.line}`, {result.kind}. {why}".rstrip(), "  ```diff"]
            lines += [f"  - {result.before}", f"  + {result.after}", "  ```"]
    return "\n".join(lines) + "\n"


def _judged(result: Result, equivalents: dict[tuple[str, str, str], str]) -> str:
    return EQUIVALENT if result.outcome == SURVIVED and _name(result) in equivalents else result.outcome


def _name(result: Result) -> tuple[str, str, str]:
    return Path(result.module).name, result.before, result.after


def _tests(result: Result) -> str:
    if not result.ran:
        return "No test runs it."
    return f"{len(result.ran)} files of tests pass" + (
        f", {result.left_out} more were not run." if result.left_out else "."
    )


def _table(title: str, judged: list[tuple[str, Result]], group: Callable[[Result], str]) -> list[str]:
    groups = sorted({group(result) for _, result in judged})
    lines = [
        f"| {title} | mutants | {' | '.join(OUTCOMES)} | killed, of those not equivalent |",
        "|---" * (len(OUTCOMES) + 3) + "|",
    ]
    for name in [*groups, "all"]:
        outcomes = [outcome for outcome, result in judged if name in ("all", group(result))]
        counts = [outcomes.count(outcome) for outcome in OUTCOMES]
        killed = outcomes.count(KILLED) + outcomes.count(TIMED_OUT)
        real = killed + outcomes.count(SURVIVED)
        share = f"{killed / real:.0%}" if real else ""
        lines.append(f"| {name} | {len(outcomes)} | {' | '.join(map(str, counts))} | {share} |")
    return lines
