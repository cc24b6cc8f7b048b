"""Settings of further answer sources, beside the window and the slots; rm-rec has none of its own."""

from typing import TYPE_CHECKING

from rm_rec.config.base import SourceSettings as SourceSettings
from rm_rec.config.outside import one_of

if TYPE_CHECKING:
    Source = SourceSettings
else:
    Source = one_of(SourceSettings)
