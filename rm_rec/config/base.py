"""Base classes for all settings of a model."""

import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from rm_rec.errors import RenamedWarning


class Settings(BaseModel):
    """A frozen block of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NamedSettings(Settings):
    """Settings of one of several classes, selected by `kind`: a name that rm-rec gives, or package.module:Class.

    Settings in rm-rec give `kind` a Literal type with a default. Settings in other packages leave `kind` out: it is set
    to the path of the class that has them as its `config_type`.
    """

    class_kind: ClassVar[str] = ""
    former_kinds: ClassVar[tuple[str, ...]] = ()
    """What `kind` was called in earlier versions, oldest first; these names are still read."""
    kind: str = ""

    @property
    def first_kind(self) -> str:
        """Return the oldest name of `kind`, for hashes that stay the same when a kind is renamed."""
        return self.former_kinds[0] if self.former_kinds else self.kind

    @model_validator(mode="before")
    @classmethod
    def _name_the_class(cls, values: Any) -> Any:
        if cls.class_kind and isinstance(values, Mapping) and "kind" not in values:
            return {"kind": cls.class_kind, **values}
        return values


class MachineSettings(NamedSettings):
    """Base class for the settings of a memory machine.

    >>> class FadingMean(MachineSettings):
    ...     num_means: int = 8
    >>> FadingMean(num_means=4).num_means
    4
    """


class ReaderSettings(NamedSettings):
    """Base class for the settings of a reader.

    >>> class BestSlots(ReaderSettings):
    ...     num_best: int = 3
    >>> BestSlots().num_best
    3
    """


class EncoderSettings(NamedSettings):
    """Base class for the settings of a segment encoder.

    >>> class Scaled(EncoderSettings):
    ...     start: float = 1.0
    >>> Scaled(start=0.5).start
    0.5
    """


class SourceSettings(NamedSettings):
    """Base class for the settings of an answer source.

    >>> class Counts(SourceSettings):
    ...     num_buckets: int = 64
    >>> Counts().num_buckets
    64
    """


def current_kind(kind: Any, members: Iterable[type[BaseModel]], block: str) -> Any:
    """Return what a kind is called now; replacing a former name warns with RenamedWarning, once a process.

    `members` are the settings classes that a block of this name can have. Any other kind is returned as it is.

    >>> from rm_rec.config.machines import AssociativeMemory
    >>> current_kind("associative", [AssociativeMemory], "machine")
    'associative'
    """
    for member in members:
        if isinstance(kind, str) and kind in getattr(member, "former_kinds", ()):
            now = member.model_fields["kind"].default
            _warn(f"{block}.kind {kind!r} is now called {now!r}")
            return now
    return kind


@cache  # not by Python's own record of warnings: any change of filters clears that
def _warn(message: str) -> None:
    warnings.warn(message, RenamedWarning, stacklevel=3)
