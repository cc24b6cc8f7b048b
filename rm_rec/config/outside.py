"""Settings of classes that live in other people's packages; nothing here imports those packages.

A `kind` such as acme.machines:Fading names a class by its place. As long as nothing may be imported, the block's other
keys are kept as they were given; the class itself checks them when it is built (`rm_rec.outside`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, SerializeAsAny, field_validator

from rm_rec.config.base import (
    EncoderSettings,
    MachineSettings,
    NamedSettings,
    ReaderSettings,
    Settings,
    SourceSettings,
    current_kind,
)

PLACE = "package.module:Class"
_NAME = r"[A-Za-z_][A-Za-z_0-9]*"
_KIND = re.compile(rf"{_NAME}(\.{_NAME})*:{_NAME}")

PackageName = Annotated[str, Field(pattern=rf"^{_NAME}$")]


class OutsideSettings(MachineSettings, ReaderSettings, EncoderSettings, SourceSettings):
    """A class of another package, with any keys of its own; --allow-package lets its code run."""

    model_config = ConfigDict(extra="allow")

    @field_validator("kind")
    @classmethod
    def _is_a_place(cls, kind: str) -> str:
        if not is_place(kind):
            raise ValueError(f"{kind!r} is not of the form {PLACE}")
        return kind


def is_place(kind: object) -> bool:
    """Say whether a kind names a class by its place.

    >>> is_place("acme.machines:Fading"), is_place("acme:Fading"), is_place("associative"), is_place("acme..m:Fading")
    (True, True, False, False)
    """
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


def package_of(kind: str) -> str:
    """Return the top-level package that a place is in.

    >>> package_of("acme.machines:Fading")
    'acme'
    """
    return re.split("[.:]", kind, maxsplit=1)[0]


def outside_settings(config: Settings) -> Iterator[tuple[str, NamedSettings]]:
    """Find the blocks of a config that name classes of other packages, each with its dotted key."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        blocks = value.items() if isinstance(value, Mapping) else [(None, value)]
        for inner, block in blocks:
            if isinstance(block, NamedSettings) and is_place(block.kind):
                yield name if inner is None else f"{name}.{inner}", block


def outside_packages(config: Settings) -> tuple[str, ...]:
    """Return the top-level packages whose code a config names, sorted."""
    return tuple(sorted({package_of(block.kind) for _, block in outside_settings(config)}))


def one_of(base: type[NamedSettings], *members: type[NamedSettings]) -> Any:
    """Return the type of a block that is one of several, told apart by `kind`, or is of another package's class.

    It takes a mapping with a `kind`, and any settings of `base` as Python objects; it writes all of a block's keys.
    """
    known = {member.model_fields["kind"].default: member for member in members}
    shown = reduce(or_, (*members, OutsideSettings))
    return Annotated[shown, PlainValidator(_OneOf(base, known)), SerializeAsAny()]  # type: ignore[type-arg]  # made while running


@dataclass(frozen=True, eq=False)  # types are hashed, and a dict is not
class _OneOf:
    """Validates a block by its kind."""

    base: type[NamedSettings]
    members: Mapping[str, type[NamedSettings]]

    def __call__(self, value: Any) -> NamedSettings:
        if isinstance(value, self.base):
            return self._checked(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"expected keys and values with a kind, found {value!r}")
        kind = current_kind(value.get("kind"), self.members.values(), self._block)
        if isinstance(kind, str) and ":" in kind:
            return OutsideSettings.model_validate(value)
        if not isinstance(kind, str) or kind not in self.members:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join([*self.members, PLACE])}")
        return self.members[kind].model_validate({**value, "kind": kind})

    @property
    def _block(self) -> str:
        """Return the block's key: machine for MachineSettings."""
        return self.base.__name__.removesuffix("Settings").lower()

    def _checked(self, value: NamedSettings) -> NamedSettings:
        """Refuse settings whose kind would bring back another class's when they are read again."""
        if type(value) is self.members.get(value.kind) or is_place(value.kind):
            return value
        name = type(value).__name__
        raise ValueError(
            f"{name} has kind {value.kind!r}, which is not the place of a class: define a class at the top of a module "
            f"with config_type = {name}, or give {name} a kind of the form {PLACE}"
        )
