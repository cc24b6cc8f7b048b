"""Jobs' settings: YAML files and the command line, read into pydantic models; `--help` from the same models."""

from pipelines.cli.settings import flatten, load_settings, resolved

__all__ = ["flatten", "load_settings", "resolved"]
