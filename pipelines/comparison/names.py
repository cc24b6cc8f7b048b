"""Names of candidates and of their runs, and the names that they had in earlier versions."""

from collections.abc import Iterator
from pathlib import Path

from rm_rec.config.base import current_kind
from rm_rec.config.machines import MACHINE_SETTINGS, NoMachine

MACHINE_KINDS = {
    machine.model_fields["kind"].default: machine for machine in MACHINE_SETTINGS if machine is not NoMachine
}
REHEARSAL = "+rehearsal"


def short_name(name: str) -> str:
    """Return the name of a log or a candidate, which may be given as a file.

    >>> short_name("recipes/mine.yaml"), short_name("mine.yaml+rehearsal"), short_name("ntm")
    ('mine', 'mine+rehearsal', 'ntm')
    >>> short_name("acme.machines:Fading")
    'acme.machines.Fading'
    """
    plain = name.removesuffix(REHEARSAL)
    return (Path(plain).stem if is_file(plain) else plain.replace(":", ".")) + name[len(plain) :]


def current_name(name: str) -> str:
    """Replace a machine's former name by its present one, with a warning; return any other candidate as it is.

    >>> current_name("ntm+rehearsal"), current_name("mine.yaml")
    ('ntm+rehearsal', 'mine.yaml')
    """
    plain = name.removesuffix(REHEARSAL)
    kind = current_kind(plain, MACHINE_KINDS.values(), "machine")
    return f"{kind}{name[len(plain) :]}"


def former_names(run: str) -> Iterator[str]:
    """Yield the names that a run had in versions that had another name for its machine.

    >>> list(former_names("quickstart/slot_gru+rehearsal/seed-0")), list(former_names("quickstart/ntm/seed-0"))
    (['quickstart/rehearsal+rehearsal/seed-0'], [])
    """
    parts = run.split("/")
    for index, part in enumerate(parts):
        plain = part.removesuffix(REHEARSAL)
        for former in MACHINE_KINDS[plain].former_kinds if plain in MACHINE_KINDS else ():
            yield "/".join((*parts[:index], f"{former}{part[len(plain) :]}", *parts[index + 1 :]))


def is_file(name: str) -> bool:
    """Return whether a candidate or a log is given as a YAML file."""
    return name.endswith((".yaml", ".yml"))
