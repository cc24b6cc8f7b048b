"""Resolving a config: settings of other packages' classes are replaced by those classes' own settings."""

from collections.abc import Callable, Collection
from typing import TypeVar

from pydantic import ValidationError

from rm_rec.config.base import NamedSettings
from rm_rec.config.model import MemoryConfig
from rm_rec.config.outside import outside_settings
from rm_rec.encoder import SegmentEncoder
from rm_rec.errors import ConfigError
from rm_rec.machines.base import MemoryMachine
from rm_rec.outside import load_outside
from rm_rec.readers.base import Reader
from rm_rec.sources.base import AnswerSource

Config = TypeVar("Config", bound=MemoryConfig)


def resolved_config(config: Config, allowed_packages: Collection[str] = ()) -> Config:
    """Replace settings of other packages' classes by those classes' own settings, checked and with every default.

    So a saved config does not depend on defaults that a later version of a package may change. Classes are imported if
    their package is one of `allowed_packages`, or is that of a settings object. Raises ConfigError as `load_outside`.
    """
    loaded = {where: _own(block, where, allowed_packages) for where, block in outside_settings(config)}
    if not loaded:
        return config
    values = {name: getattr(config, name) for name in type(config).model_fields}
    sources = {name: loaded.get(f"sources.{name}", block) for name, block in config.sources.items()}
    values |= {name: block for name, block in loaded.items() if name in values} | {"sources": sources}
    try:
        return type(config).model_validate(values)
    except ValidationError as error:  # a rule over several blocks, which could not be checked before
        raise ConfigError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from error


def _own(block: NamedSettings, where: str, allowed_packages: Collection[str]) -> NamedSettings:
    return _LOADERS[where.partition(".")[0]](block, where, allowed_packages)


_Loader = Callable[[NamedSettings, str, Collection[str]], NamedSettings]
_LOADERS: dict[str, _Loader] = {
    "machine": lambda block, where, allowed: load_outside(block, MemoryMachine, allowed, where)[1],
    "reader": lambda block, where, allowed: load_outside(block, Reader, allowed, where)[1],
    "encoder": lambda block, where, allowed: load_outside(block, SegmentEncoder, allowed, where)[1],
    "sources": lambda block, where, allowed: load_outside(block, AnswerSource, allowed, where)[1],
}
