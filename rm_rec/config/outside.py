"""Settings of classes from other people's packages; nothing here imports those packages.

A `kind` such as acme.machines:Fading names a class by its path. The block's other keys are kept unchecked until the
class is imported, and checked when it is built (`rm_rec.outside`).
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

CLASS_PATH = "package.module:Class"
_NAME = r"[A-Za-z_][A-Za-z_0-9]*"
_KIND = re.compile(rf"{_NAME}(\.{_NAME})*:{_NAME}")

PackageName = Annotated[str, Field(pattern=rf"^{_NAME}$")]


class OutsideSettings(MachineSettings, ReaderSettings, EncoderSettings, SourceSettings):
    """A class from another package, with any keys; --allow-package permits its code to run."""

    model_config = ConfigDict(extra="allow")

    @field_validator("kind")
    @classmethod
    def _is_a_class_path(cls, kind: str) -> str:
        if not is_class_path(kind):
            raise ValueError(f"{kind!r} is not of the form {CLASS_PATH}")
        return kind


def is_class_path(kind: object) -> bool:
    """Return whether a kind names a class by its path.

    >>> [is_class_path(kind) for kind in ("acme.machines:Fading", "acme:Fading", "associative", "acme..m:Fading")]
    [True, True, False, False]
    """
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


def package_of(kind: str) -> str:
    """Return the top-level package of a class path.

    >>> package_of("acme.machines:Fading")
    'acme'
    """
    return re.split("[.:]", kind, maxsplit=1)[0]


def outside_settings(config: Settings) -> Iterator[tuple[str, NamedSettings]]:
    """Yield the blocks of a config that name classes from other packages, each with its dotted key."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        blocks = value.items() if isinstance(value, Mapping) else [(None, value)]
        for inner, block in blocks:
            if isinstance(block, NamedSettings) and is_class_path(block.kind):
                yield name if inner is None else f"{name}.{inner}", block


def outside_packages(config: Settings) -> tuple[str, ...]:
    """Return the top-level packages whose code a config names, sorted."""
    return tuple(sorted({package_of(block.kind) for _, block in outside_settings(config)}))


def one_of(base: type[NamedSettings], *members: type[NamedSettings]) -> Any:
    """Return the type of a block that is one of several, distinguished by `kind`, or names another package's class.

    It accepts a mapping with a `kind`, and instances of any subclass of `base`; it is saved with all its keys.
    """
    known = {member.model_fields["kind"].default: member for member in members}
    shown = reduce(or_, (*members, OutsideSettings))
    return Annotated[shown, PlainValidator(_OneOf(base, known)), SerializeAsAny()]  # type: ignore[type-arg]  # at run time


@dataclass(frozen=True, eq=False)  # types are hashed, and a dict is not
class _OneOf:
    """Validates a block according to its kind."""

    base: type[NamedSettings]
    members: Mapping[str, type[NamedSettings]]

    def __call__(self, value: Any) -> NamedSettings:
        if isinstance(value, self.base):
            return self._checked(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"expected keys and values, with a kind among them, found {value!r}")
        kind = current_kind(value.get("kind"), self.members.values(), self._block)
        if isinstance(kind, str) and ":" in kind:
            return OutsideSettings.model_validate(value)
        if not isinstance(kind, str) or kind not in self.members:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join([*self.members, CLASS_PATH])}")
        return self.members[kind].model_validate({**value, "kind": kind})

    @property
    def _block(self) -> str:
        """Return the block's key: machine for MachineSettings."""
        return self.base.__name__.removesuffix("Settings").lower()

    def _checked(self, value: NamedSettings) -> NamedSettings:
        """Raise ValueError where reading the saved settings again would give settings of another class."""
        if type(value) is self.members.get(value.kind) or is_class_path(value.kind):
            return value
        name = type(value).__name__
        raise ValueError(
            f"{name} has kind {value.kind!r}, which is not the path of a class: define a class at the top level of a "
            f"module with config_type = {name}, or give {name} a kind of the form {CLASS_PATH}"
        )
