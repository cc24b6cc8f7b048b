"""The parts of several sources' states in one dictionary: under which names, and whose they are."""

from collections.abc import Mapping

from torch import Tensor

from rm_rec.errors import ConfigError
from rm_rec.sources.base import AnswerSource, StatePart


class PartNames:
    """Names each part by its source, but for those of the source called `plain`, whose parts keep their own names.

    ConfigError where two parts would have one name.
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
        """Pick a source's parts from all, under its own names."""
        return {part: state[full] for part, full in self._full[source].items()}

    def joined(self, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Lay the parts of all sources, source -> part, in one dictionary."""
        return {full: states[name][part] for name, parts in self._full.items() for part, full in parts.items()}

    def spec(self, sources: Mapping[str, AnswerSource]) -> dict[str, StatePart]:
        """Say what all sources keep of a user."""
        parts = {name: source.state_parts() for name, source in sources.items()}
        return {full: parts[name][part] for name, names in self._full.items() for part, full in names.items()}
