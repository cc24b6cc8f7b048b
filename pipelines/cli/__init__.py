"""Jobs' settings: YAML files and the command line, read into pydantic models; `--help` from the same models."""

from pipelines.cli.settings import flatten, load_settings, resolved
from pipelines.cli.values import SettingsError

__all__ = ["SettingsError", "flatten", "load_settings", "resolved"]
