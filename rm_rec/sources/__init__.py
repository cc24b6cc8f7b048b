"""Answer sources: they compute what a click head receives about a user. Every model has the window; most have slots."""

from collections.abc import Collection
from typing import Final

from rm_rec.config.base import SourceSettings
from rm_rec.outside import load_outside
from rm_rec.sources.base import AnswerSource

SOURCES: Final[dict[str, type[AnswerSource]]] = {}  # further sources by kind; rm-rec has none yet


def build_source(
    config: SourceSettings, token_dim: int, segment_length: int, allowed_packages: Collection[str] = ()
) -> AnswerSource:
    """Build the source that the config names; raises ConfigError if it is of a package that is not allowed."""
    if config.kind in SOURCES:
        return SOURCES[config.kind](config, token_dim, segment_length)
    source, settings = load_outside(config, AnswerSource, allowed_packages, "source")
    assert isinstance(settings, SourceSettings)
    return source(settings, token_dim, segment_length)
