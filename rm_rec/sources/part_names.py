"""Naming the state parts of several sources in one dictionary."""

from collections.abc import Mapping

from torch import Tensor

from rm_rec.errors import ConfigError
from rm_rec.sources.base import AnswerSource, StatePart


class PartNames:
    """Prefixes the name of each state part with its source's name, except for the source called `plain`.

    Raises ConfigError if two parts would have the same name.
    """

    def __init__(self, sources: Mapping[str, AnswerSource], plain: str) -> None:
        self._full = {
            name: {part: part if name == plain else f"{name}_{part}" for part in source.state_parts()}
            for name, source in sources.items()
        }
        names = [full for parts in self._full.values() for full in parts.values()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two sources keep a part called {twice[0]!r}; give one of them another name")

    def own(self, source: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parts of one source, under its own names."""
        return {part: state[full] for part, full in self._full[source].items()}

    def joined(self, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the parts of all sources (source -> part -> tensor) in one dictionary."""
        return {full: states[name][part] for name, parts in self._full.items() for part, full in parts.items()}

    def spec(self, sources: Mapping[str, AnswerSource]) -> dict[str, StatePart]:
        """Return the state parts of all sources in one dictionary."""
        parts = {name: source.state_parts() for name, source in sources.items()}
        return {full: parts[name][part] for name, names in self._full.items() for part, full in names.items()}
