"""Settings of answer sources: what a click head hears of a user beside window and slots. None is built in."""

from typing import TYPE_CHECKING

from rm_rec.config.base import SourceSettings as SourceSettings
from rm_rec.config.outside import one_of

if TYPE_CHECKING:
    Source = SourceSettings
else:
    Source = one_of(SourceSettings)
