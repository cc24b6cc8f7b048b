"""Settings of the jobs, read from YAML files and the command line; `--help`, exit codes and progress."""

from pipelines.cli.settings import flatten, load_settings, resolved

__all__ = ["flatten", "load_settings", "resolved"]
