"""Read a job's config from YAML files and the command line; each mistake is one line that names its source.

    python -m pipelines.train_ctr --config recipe.yaml --config mine.yaml --optimizer.lr 0.003

Layers are merged key by key, the later one wins. The exception is a block with a `kind`: a layer that changes the
kind replaces the whole block, as other kinds have other keys.
"""

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipelines.cli.help_text import (
    KIND,
    blocks_of,
    dotted_keys,
    help_text,
    is_open,
    keys_of,
    kind_of,
    members_of,
    named_blocks_of,
)
from pipelines.cli.recipes import find_recipe, recipe_names
from pipelines.cli.values import COMMAND_LINE, Typed, from_yaml, join_leaf, problem_of
from pipelines.errors import SettingsError
from rm_rec.config.base import current_kind

Settings = TypeVar("Settings", bound=BaseModel)
_Layer = tuple[str, Mapping[str, Any]]  # the source, and the keys with their values


def load_settings(
    model: type[Settings], argv: Sequence[str], *, prog: str, description: str, examples: Sequence[str] = ()
) -> Settings:
    """Read a job's config from `--config FILE` (any number; see `find_recipe`) and `--dotted.key value` overrides.

    `prog` is the command that starts the job. `--help` prints every key and exits 0. Raises SettingsError.
    """
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(help_text(model, prog, description, examples, recipe_names()))
        raise SystemExit(0)
    files, overrides = _parse(argv)
    reader = _Reader(frozenset(dotted_keys(model)))
    tree = reader.block(model, [*((name, _read(name)) for name in files), (COMMAND_LINE, overrides)], "")
    try:
        settings = model.model_validate(tree)
    except ValidationError as error:
        reader.explain(error, tree)
    if reader.errors:
        raise SettingsError("\n".join(dict.fromkeys(reader.errors)))
    return settings


def resolved(model: BaseModel) -> dict[str, Any]:
    """Return every key of a config, defaults included, as plain JSON values."""
    return model.model_dump(mode="json", by_alias=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested keys into dotted ones and lists into JSON text, as MLflow's parameters need it.

    >>> flatten({"optimizer": {"lr": 0.003}, "columns": ["a"]})
    {'optimizer.lr': 0.003, 'columns': '["a"]'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple | Mapping) else value
    return flat


def _parse(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    files: list[str] = []
    overrides: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        key, equals, inline = token.removeprefix("--").partition("=")
        key = key.replace("-", "_")  # --dry-run is --dry_run: no key has a hyphen
        if not token.startswith("--") or not key:
            raise SettingsError(f"{token!r} is not expected here ({COMMAND_LINE}): options are `--key value`")
        value = inline if equals else rest.pop(0) if rest and not rest[0].startswith("--") else None
        if key == "config":
            if value is None:
                raise SettingsError(f"--config needs a value ({COMMAND_LINE}): a YAML file, or a recipe's name")
            files.append(value)
        else:
            _put(overrides, key, value)
    return files, overrides


def _put(overrides: dict[str, Any], key: str, value: str | None) -> None:
    *parents, last = key.split(".")
    block = overrides
    for parent in parents:
        block = block.setdefault(parent, {})
        if not isinstance(block, dict):
            raise SettingsError(f"{key} ({COMMAND_LINE}): {parent} is already given a value")
    earlier = block.get(last, Typed(()))
    if not isinstance(earlier, Typed):
        raise SettingsError(f"{key} ({COMMAND_LINE}): some of its keys are already given a value")
    block[last] = Typed((*earlier.texts, value))


def _read(name: str) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: not YAML: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}{_where(error)}: broken YAML: {problem_of(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{name}: expected keys and values at the top, found a {type(tree).__name__}")
    return tree


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


@dataclass
class _Reader:
    """Merges layers along the structure of a config, and records mistakes and the source of each value."""

    known: frozenset[str]
    errors: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def block(self, model: type[BaseModel], layers: Sequence[_Layer], prefix: str, kind: str = "") -> dict[str, Any]:
        """Return the merged keys of one block; a key that the block does not have is recorded and left out."""
        known = keys_of(model)
        for source, keys in layers:
            self.errors += [self._unknown(f"{prefix}{key}", source, model, kind) for key in keys if key not in known]
        tree: dict[str, Any] = {}
        for name, info in known.items():
            values = [(source, keys[name]) for source, keys in layers if name in keys]
            key = f"{prefix}{name}"
            try:
                if named_blocks_of(info.annotation) is not None and values:
                    tree[name] = self._join_named(info, values, key)
                elif blocks_of(info.annotation):
                    self._join_block(tree, name, info, values, key)
                elif values:
                    self.sources[key] = values[-1][0]
                    tree[name] = join_leaf(info, values, key)
            except SettingsError as error:
                self.errors.append(str(error))
                self.failed.add(key)
        return tree

    def _join_named(self, info: FieldInfo, values: Sequence[tuple[str, Any]], key: str) -> Any:
        """Merge blocks with names of the user's choice, each by itself; null removes the block of earlier layers."""
        if not all(isinstance(blocks, Mapping) for _, blocks in values):
            return join_leaf(info, values, key)
        names = dict.fromkeys(name for _, blocks in values for name in blocks)
        inner = FieldInfo.from_annotation(named_blocks_of(info.annotation))
        tree: dict[str, Any] = {}
        for name in names:
            layers = [(source, blocks[name]) for source, blocks in values if name in blocks]
            empty = [index for index, (_, block) in enumerate(layers) if block is None or _is_null(block)]
            if layers := layers[empty[-1] + 1 if empty else 0 :]:
                self._join_block(tree, name, inner, layers, f"{key}.{name}")
        return tree

    def _join_block(
        self, tree: dict[str, Any], name: str, info: FieldInfo, values: Sequence[tuple[str, Any]], key: str
    ) -> None:
        models = blocks_of(info.annotation)
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        layers: list[_Layer] = [("default", _preset(default))] if isinstance(default, BaseModel) else []
        several = len(models) > 1 or is_open(models[0])
        chosen = layers[0][1].get(KIND) if layers and several else None
        emptied = False
        for source, value in values:
            self.sources[key] = source
            block = from_yaml(value.texts[-1], key) if isinstance(value, Typed) else value
            if block is None:  # `optimizer:` with nothing under it, or an explicit null
                emptied = type(None) in members_of(info.annotation)
                layers = [] if emptied else layers
                continue
            if not isinstance(block, Mapping):
                raise SettingsError(f"{key} = {block!r} ({source}): a block: give its keys, such as --{key}.…")
            if several and KIND in block:
                kind = block[KIND].texts[-1] if isinstance(block[KIND], Typed) else block[KIND]
                kind = current_kind(kind, models, name)
                block = {**block, KIND: kind}
                layers, chosen = (layers if kind == chosen else []), kind
            emptied = False
            layers.append((source, block))
        if emptied:
            tree[name] = None
        elif not several and (layers or info.is_required()):
            tree[name] = self.block(models[0], layers, f"{key}.")
        elif layers or info.is_required():
            by_kind = {kind_of(model): model for model in models}
            if isinstance(chosen, str) and ":" in chosen and any(map(is_open, models)):
                tree[name] = self._any_keys(layers, key) | {KIND: chosen}
                return
            if chosen not in by_kind:
                source = f" ({self.sources[key]})" if key in self.sources else ""
                actual = f" = {chosen!r}" if chosen is not None else ""
                expected = f"one of {', '.join(by_kind)}" if len(by_kind) > 1 else next(iter(by_kind))
                raise SettingsError(f"{key}.{KIND}{actual}{source}: must be {expected}")
            tree[name] = self.block(by_kind[chosen], layers, f"{key}.", chosen)

    def _any_keys(self, layers: Sequence[_Layer], prefix: str) -> dict[str, Any]:
        """Merge the keys of a class of another package: any key, as the class is not imported here to check them."""
        tree: dict[str, Any] = {}
        for name in dict.fromkeys(name for _, block in layers for name in block):
            key = f"{prefix}.{name}"
            values = [(source, block[name]) for source, block in layers if name in block]
            source, last = values[-1]
            self.sources[key] = source
            if isinstance(last, Mapping):
                tree[name] = self._any_keys([layer for layer in values if isinstance(layer[1], Mapping)], key)
            elif name != KIND:
                tree[name] = from_yaml(last.texts[-1], key) if isinstance(last, Typed) else last
        return tree

    def _unknown(self, key: str, source: str, model: type[BaseModel], kind: str) -> str:
        moved: Mapping[str, str] = getattr(model, "moved", {})
        if key in moved:
            return f"{key} ({source}): {moved[key]}"
        if kind:
            block = key.rpartition(".")[0]
            return f"{key} ({source}): {block} of kind {kind} has no such key; it has {', '.join(keys_of(model))}"
        if key in self.known:
            return f"{key} ({source}): unknown key; write it as nested blocks, without dots"
        last = key.rpartition(".")[2]
        by_last = [known for known in sorted(self.known) if known.rpartition(".")[2] == last]
        near = difflib.get_close_matches(key, self.known, n=1) or by_last
        return f"{key} ({source}): unknown key" + (f"; did you mean {near[0]}?" if near else "; --help lists all keys")

    def explain(self, error: ValidationError, tree: Mapping[str, Any]) -> None:
        """Record each value that pydantic refused: its key, value, source and bound."""
        problems = error.errors(include_url=False)
        inner = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
        for problem in problems:
            if problem["type"] == "too_short" and problem["loc"] in inner:
                continue  # only because pydantic does not count a refused element
            key = _dotted(problem["loc"], tree)
            if any(key == failed or key.startswith(f"{failed}.") for failed in self.failed):
                continue
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            message = message.replace("Input should be", "must be")
            if problem["type"] == "too_short":
                message = f"must have {problem['ctx']['min_length']} or more"
            source = self.sources.get(key)
            came_from = f" ({source})" if source else ""
            if problem["type"] == "missing":
                self.errors.append(f"{key}: required; give it in a --config file or as --{key}")
            elif isinstance(problem["input"], Mapping | BaseModel):  # a rule over a whole block
                self.errors.append(f"{key}{came_from}: {message}".removeprefix(": "))
            else:
                quote = "; quote it" if problem["type"] == "string_type" else ""
                self.errors.append(f"{key} = {problem['input']!r}{came_from}: {message}{quote}")


def _is_null(block: Any) -> bool:
    return isinstance(block, Typed) and block.texts[-1] == "null"


def _preset(default: BaseModel) -> dict[str, Any]:
    """Return the keys that a field's default instance sets explicitly, and its kinds."""
    values = {name: getattr(default, name) for name in type(default).model_fields}
    return {
        name: _preset(value) if isinstance(value, BaseModel) else value
        for name, value in values.items()
        if isinstance(value, BaseModel) or name in default.model_fields_set or name == KIND
    }


def _dotted(location: Sequence[Any], tree: Any) -> str:
    """Return the dotted key of a pydantic location, without the kinds and list positions that pydantic adds."""
    keys: list[str] = []
    for part in location:
        if part == "[key]":  # pydantic's mark of a refused name
            continue
        if isinstance(tree, Mapping):
            if part not in tree and part == tree.get(KIND):
                continue
            keys.append(str(part))
            tree = tree.get(part)
    return ".".join(keys)
