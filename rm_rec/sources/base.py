"""The contract of every answer source: what a click head hears of a user beside window and slots."""

from abc import ABC

from torch import nn

from rm_rec.config.base import SourceSettings
from rm_rec.outside import name_settings


class AnswerSource(nn.Module, ABC):
    """Answers queries about users; it is built from its settings and the sizes of vectors and segments."""

    config_type: type[SourceSettings]  # what its settings are

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name_settings(cls)

    def __init__(self, config: SourceSettings, token_dim: int, segment_length: int) -> None:
        super().__init__()
