"""Sources of answers: what a click head is told of a user. The window and the slots are the config's own blocks."""

from collections.abc import Collection
from typing import Final

from rm_rec.config.base import SourceSettings
from rm_rec.outside import load_outside
from rm_rec.sources.base import AnswerSource

SOURCES: Final[dict[str, type[AnswerSource]]] = {}  # further ones by kind: none comes with the package yet


def build_source(
    config: SourceSettings, token_dim: int, segment_length: int, allowed_packages: Collection[str] = ()
) -> AnswerSource:
    """Make the source that the config names; ConfigError where it is of a package that is not allowed."""
    if config.kind in SOURCES:
        return SOURCES[config.kind](config, token_dim, segment_length)
    source, settings = load_outside(config, AnswerSource, allowed_packages, "source")
    assert isinstance(settings, SourceSettings)
    return source(settings, token_dim, segment_length)
