"""The structure of a config model (blocks, kinds, keys) and the text of `--help` that is made from it."""

import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

KIND = "kind"  # the field that selects a member of a union of blocks
OUTSIDE_CLASS = "package.module:Class"  # a kind that names a class of another package, which defines the keys
WIDTH = 100
_NAMES = {str: "text", Path: "path", int: "integer", float: "number", bool: "true or false", type(None): "null"}
_BOUNDS = {
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Le: ("le", "at most"),
    annotated_types.Lt: ("lt", "below"),
    annotated_types.MultipleOf: ("multiple_of", "a multiple of"),
    annotated_types.MinLen: ("min_length", "length at least"),
    annotated_types.MaxLen: ("max_length", "length at most"),
}


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types a field accepts, one by one; a Literal's values stand for themselves."""
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for argument in get_args(annotation) for member in members_of(argument))
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return (annotation,)


def blocks_of(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the config models a field may hold: none for a plain value, several for a union selected by kind."""
    return tuple(m for m in members_of(annotation) if isinstance(m, type) and issubclass(m, BaseModel))


def is_open(model: type[BaseModel]) -> bool:
    """Return whether a block accepts any key, as the settings of a class of another package do."""
    return model.model_config.get("extra") == "allow"


def named_blocks_of(annotation: Any) -> Any:
    """Return the type of the blocks that a field holds by name, as in `dict[str, Source]`; None for any other field."""
    for member in members_of(annotation):
        if get_origin(member) is dict and blocks_of(get_args(member)[1]):
            return get_args(member)[1]
    return None


def sequence_of(annotation: Any) -> tuple[Any, ...] | None:
    """Return the types of a list's elements, or None where the field is not a list."""
    for member in members_of(annotation):
        if get_origin(member) in (tuple, list, frozenset, set):
            return tuple(part for argument in get_args(member) if argument is not ... for part in members_of(argument))
    return None


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a config's fields by the keys that users write: the alias of a field that Python reserves (`from`)."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def kind_of(model: type[BaseModel]) -> str:
    """Return the kind that selects this model in a union of blocks; OUTSIDE_CLASS for classes of other packages."""
    return OUTSIDE_CLASS if is_open(model) else str(get_args(model.model_fields[KIND].annotation)[0])


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """List the keys of a config, blocks and the keys of every kind included."""
    for name, info in keys_of(model).items():
        yield f"{prefix}{name}"
        for block in blocks_of(info.annotation):
            yield from dotted_keys(block, f"{prefix}{name}.")


def help_text(
    model: type[BaseModel], prog: str, description: str, examples: Sequence[str], recipes: Sequence[str] = ()
) -> str:
    """Write every key of a config with its type, default, bounds and meaning, grouped by top-level block.

    `recipes` are the names that `--config` takes beside files.
    """
    lines = [description, "", "Examples:", *(f"  {line}" for line in examples or _examples(model, prog)), ""]
    files = "a YAML file, or the name of a recipe that comes with rm-rec: " + ", ".join(recipes)
    again = "Settings; can be given several times, a later file overrides an earlier one."
    lines += ["Options:", *_entry("--config", files, again), *_entry("--help", "", "Show this help.")]
    lines += _wrapped(
        "Hyphens and underscores in names of options are the same; an option without a value is true.", "  "
    )
    plain = {name: info for name, info in keys_of(model).items() if not _holds_blocks(info)}
    for name, info in plain.items():
        lines += _field(f"--{name}", info, "  ")
    for name, info in keys_of(model).items():
        if name not in plain:
            lines += ["", *_block(name, info, "")]
    return "\n".join(lines) + "\n"


def _examples(model: type[BaseModel], prog: str) -> list[str]:
    command = f"{prog} --config recipe.yaml"
    for key, info in _leaves(model):
        default = _default(info)
        if isinstance(default, int | float) and not isinstance(default, bool):
            return [command, f"{command} --{key} {default:g}"]
    return [command, f"{command} --config mine.yaml"]


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in keys_of(model).items():
        blocks = blocks_of(info.annotation)
        if not blocks:
            yield f"{prefix}{name}", info
        elif len(blocks) == 1:
            yield from _leaves(blocks[0], f"{prefix}{name}.")


def _holds_blocks(info: FieldInfo) -> bool:
    return bool(blocks_of(info.annotation)) or named_blocks_of(info.annotation) is not None


def _block(key: str, info: FieldInfo, indent: str, default: Any = None) -> list[str]:
    if named_blocks_of(info.annotation) is not None:
        return _named_blocks(key, info, indent)
    models = blocks_of(info.annotation)
    default = default if default is not None else _default(info)
    about = info.description or (_summary(models[0]) if len(models) == 1 else "")
    if default is None and not info.is_required():
        about = f"{about} Off (null) by default.".strip()
    lines = _wrapped(f"{key}: {about}" if about else f"{key}:", indent)
    inner = indent + "  "
    if len(models) == 1:
        return lines + _keys(models[0], key, inner, default)
    kinds = ", ".join(map(kind_of, models))
    chosen = kind_of(type(default)) if isinstance(default, BaseModel) else "null" if not info.is_required() else None
    lines += _entry(
        f"--{key}.{KIND}", f"one of {kinds}" + (f"; default {chosen}" if chosen else "; required"), "", inner
    )
    for model in models:
        lines += _wrapped(f"{KIND} {kind_of(model)}: {_summary(model)}", inner)
        if is_open(model):
            lines += _entry(f"--{key}.KEY", "a value in YAML: 3, true, [a, b]", "", inner + "  ")
            continue
        lines += _keys(model, key, inner + "  ", default if isinstance(default, model) else None, skip=KIND)
    return lines


def _keys(model: type[BaseModel], prefix: str, indent: str, default: Any, skip: str = "") -> list[str]:
    lines: list[str] = []
    for name, info in model.model_fields.items():
        value = getattr(default, name) if isinstance(default, model) else None
        if name == skip:
            continue
        if _holds_blocks(info):
            lines += _block(f"{prefix}.{name}", info, indent, value)
        else:
            lines += _field(f"--{prefix}.{name}", info, indent, value)
    return lines


def _named_blocks(key: str, info: FieldInfo, indent: str) -> list[str]:
    models = blocks_of(named_blocks_of(info.annotation))
    lines = _wrapped(f"{key}: {info.description or ''}".strip(), indent)
    facts = "one of " + ", ".join(map(kind_of, models)) if len(models) > 1 else kind_of(models[0])
    lines += _entry(f"--{key}.NAME.{KIND}", facts, "", indent + "  ")
    return lines + _entry(f"--{key}.NAME.KEY", "a value in YAML: 3, true, [a, b]", "", indent + "  ")


def _field(option: str, info: FieldInfo, indent: str, default: Any = None) -> list[str]:
    if default is None:
        default = _default(info)
    shown = "required" if info.is_required() and default is None else f"default {_shown(default)}"
    return _entry(option, "; ".join([_type(info.annotation), *_bounds(info), shown]), info.description or "", indent)


def _entry(option: str, facts: str, about: str, indent: str = "  ") -> list[str]:
    lines = _wrapped(f"{option}  ({facts})" if facts else option, indent)
    return lines + (_wrapped(about, indent + "    ", hang="") if about else [])


def _wrapped(text: str, indent: str, hang: str = "    ") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0]


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | set | frozenset):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(value)


def _type(annotation: Any) -> str:
    members = members_of(annotation)
    item = sequence_of(annotation)
    if item is not None:
        names = [_name(part) for part in item] + (["null"] if type(None) in members else [])
        return "a,b: list of " + " or ".join(names)
    literals = [str(member) for member in members if not isinstance(member, type) and get_origin(member) is None]
    names = [_name(member) for member in members if isinstance(member, type) or get_origin(member) is not None]
    return " or ".join(([f"one of {', '.join(literals)}"] if literals else []) + names)


def _name(member: Any) -> str:
    if get_origin(member) is dict:
        return "keys and values"
    return _NAMES.get(member, getattr(member, "__name__", str(member)))


def _bounds(info: FieldInfo) -> list[str]:
    return [
        f"{_BOUNDS[type(mark)][1]} {getattr(mark, _BOUNDS[type(mark)][0])}"
        for mark in [*info.metadata, *_marks(info.annotation)]
        if type(mark) in _BOUNDS
    ]


def _marks(annotation: Any) -> Iterator[Any]:
    """Find bounds written inside a union, as in `Fraction | None`."""
    if get_origin(annotation) is Annotated:
        for mark in annotation.__metadata__:
            yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _marks(argument)
