"""Reading one value of a config: text from the command line stays text if the field is text, else it is YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from pipelines.cli.help_text import members_of, sequence_of
from pipelines.errors import SettingsError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Typed:
    """Text that was typed for one key on the command line, not parsed until the key's type is known."""

    texts: tuple[str | None, ...]
    """One text for each time that the key was given; None where no value followed it."""


def join_leaf(info: FieldInfo, layers: Sequence[tuple[str, Any]], key: str) -> Any:
    """Return the value of one plain field from its layers, (source, value) each; the last one wins."""
    if all(isinstance(value, Mapping) for _, value in layers):  # a free dictionary: merged like a block
        return {
            name: _from_text(value.texts[-1], (), f"{key}.{name}") if isinstance(value, Typed) else value
            for _, block in layers
            for name, value in block.items()
        }
    source, value = layers[-1]
    value = _read(value, info, key) if isinstance(value, Typed) else value
    members = members_of(info.annotation)
    if isinstance(value, bool) and bool not in members and {int, float} & set(members):
        raise SettingsError(f"{key} = {value} ({source}): must be a number")  # pydantic would take true for 1
    return value


def _read(typed: Typed, info: FieldInfo, key: str) -> Any:
    members, item = members_of(info.annotation), sequence_of(info.annotation)
    if item is None:
        return _from_text(typed.texts[-1], members, key)
    if typed.texts == ("null",) and type(None) in members:
        return None
    return [entry for text in typed.texts for entry in _list_from_text(text, item, key)]


def _list_from_text(text: str | None, item: tuple[Any, ...], key: str) -> list[Any]:
    """Read `[a, b]` or `a,b`; elements keep their text where the field holds text."""
    if text is None:
        raise SettingsError(f"--{key} needs a value ({COMMAND_LINE}): a list, such as a,b")
    bracketed = text.strip() if text.strip().startswith("[") else f"[{text}]"
    if item != (str,):
        return list(from_yaml(bracketed, key))
    if not bracketed.endswith("]"):
        raise SettingsError(f"{key} = {text!r} ({COMMAND_LINE}): the list has no closing bracket")
    entries = (entry.strip() for entry in bracketed[1:-1].split(","))
    return [entry.strip("\"'") for entry in entries if entry]


def _from_text(text: str | None, members: tuple[Any, ...], key: str) -> Any:
    """Read one typed value of a field that accepts `members`: text stays text if the field is text."""
    if text is None:
        if bool in members:
            return True
        raise SettingsError(f"--{key} needs a value ({COMMAND_LINE})")
    if type(None) in members and text == "null":
        return None
    if text in members or (members and set(members) <= {str, Path, type(None)}):
        return text
    return from_yaml(text, key)


def from_yaml(text: str | None, key: str) -> Any:
    """Read one typed value as YAML; raises SettingsError."""
    if text is None:
        raise SettingsError(f"--{key} needs a value ({COMMAND_LINE})")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{key} = {text!r} ({COMMAND_LINE}): not YAML: {problem_of(error)}") from error


def problem_of(error: yaml.YAMLError) -> str:
    """Return the first line of PyYAML's description of an error."""
    return str(getattr(error, "problem", None) or error).splitlines()[0]
