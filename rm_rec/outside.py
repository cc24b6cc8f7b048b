"""Importing classes from other people's packages, by a kind such as acme.machines:Fading, only where allowed."""

import inspect
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import TypeVar

from pydantic import ValidationError

from rm_rec.config.base import NamedSettings, Settings
from rm_rec.config.outside import CLASS_PATH, OutsideSettings, is_class_path, outside_settings, package_of
from rm_rec.errors import ConfigError

Built = TypeVar("Built")  # a machine, reader, encoder or source: its settings are its `config_type`


def name_settings(built: type) -> None:
    """Set the `kind` of a class's settings to the path of the class, unless they have a kind already.

    The base classes of machines, readers, encoders and sources call it for each of their subclasses, so that settings
    in other packages need no `kind`. A class defined inside a function has no path.
    """
    settings = vars(built).get("config_type")
    kind = f"{built.__module__}:{built.__qualname__}"
    if settings is None or not is_class_path(kind) or _top_package(settings) == _top_package(NamedSettings):
        return
    if not settings.model_fields["kind"].default and "class_kind" not in vars(settings):
        settings.class_kind = kind


def load_class(kind: str, base: type[Built], allowed_packages: Collection[str]) -> type[Built]:
    """Import the class that a kind names.

    Raises ConfigError if its package is not allowed (nothing is imported then), if the module or the class does not
    exist or cannot be imported, and if the class is not a subclass of `base`.
    """
    if not is_class_path(kind):
        raise ConfigError(f"{kind!r} names no class; expected {CLASS_PATH}")
    package = package_of(kind)
    if package not in allowed_packages:
        raise ConfigError(refusal(kind))
    module, _, name = kind.partition(":")
    imported = getattr(_imported(module, kind), name, None)
    if not isinstance(imported, type):
        raise ConfigError(f"{kind}: module {module} has no class {name}; check the name, or the version of {package}")
    if not issubclass(imported, base):
        raise ConfigError(f"{kind} is not a {base.__name__}: derive it from {base.__module__}.{base.__name__}")
    if inspect.isabstract(imported):
        missing = ", ".join(sorted(getattr(imported, "__abstractmethods__", ())))
        raise ConfigError(f"{kind} is abstract: it lacks {missing}")
    return imported


def refusal(kind: str) -> str:
    """Return the one-line message of the error that a package is not allowed, with what to do."""
    package = package_of(kind)
    return (
        f"{kind} needs code of package {package!r}; if you trust it, allow it: --allow-package {package} "
        f"(in Python allowed_packages=[{package!r}], where a model is served RM_REC_ALLOW_PACKAGES={package})"
    )


def load_outside(
    settings: NamedSettings, base: type[Built], allowed_packages: Collection[str], where: str
) -> tuple[type[Built], NamedSettings]:
    """Return the class that settings name, and its own settings with every default filled in.

    Settings given as a Python object from another package allow that package. `where` is the block's key, for errors.
    Raises ConfigError as `load_class` does, and if the class's settings reject a key.
    """
    is_object = not isinstance(settings, OutsideSettings)
    own_package = {_top_package(type(settings))} if is_object else set()
    try:
        built = load_class(settings.kind, base, {*allowed_packages, *own_package})
    except ConfigError as error:
        raise ConfigError(f"{where}.kind {error}") from error
    config_type = getattr(built, "config_type", None)
    if not (isinstance(config_type, type) and issubclass(config_type, NamedSettings)):
        raise ConfigError(f"{settings.kind} has no config_type; expected the class of its settings")
    if is_object:
        if type(settings) is not config_type:
            raise ConfigError(
                f"{where}: {type(settings).__name__} are not the settings of {settings.kind}, which has config_type "
                f"{config_type.__name__}: give {settings.kind} settings of its own class"
            )
        return built, settings
    try:
        return built, config_type.model_validate(settings.model_dump())
    except ValidationError as error:
        raise ConfigError(_refused_key(error, settings.kind, config_type, where)) from error


def require_allowed(config: Settings, allowed_packages: Collection[str]) -> None:
    """Raise ConfigError, before anything is imported, if a config names a class of a package that is not allowed."""
    for where, block in outside_settings(config):
        if package_of(block.kind) not in allowed_packages:
            raise ConfigError(f"{where}.kind {refusal(block.kind)}")


def _imported(module: str, kind: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{kind}: there is no module {error.name}; install its package into this environment, or check the name"
            ) from error
        raise ConfigError(f"{kind}: module {module} cannot be imported: {_one_line(error)}") from error
    except Exception as error:
        raise ConfigError(f"{kind}: module {module} cannot be imported: {_one_line(error)}") from error


def _refused_key(error: ValidationError, kind: str, config_type: type[NamedSettings], where: str) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if key == "kind":
        return (
            f"{where}.kind is {kind!r}, but its config_type {config_type.__name__} is of another kind "
            f"({first['msg'].removeprefix('Input should be ')}): give {kind} a settings class of its own"
        )
    if first["type"] == "extra_forbidden":
        known = ", ".join(name for name in config_type.model_fields if name != "kind")
        return f"{where}.{key}: {kind} has no such key; it has {known or 'none'}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not key:
        return f"{where}: {message}"
    value = "" if first["type"] == "missing" else f" is {first['input']!r}"
    return f"{where}.{key}{value}: {message} ({kind})"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _top_package(cls: type) -> str:
    return cls.__module__.partition(".")[0]
