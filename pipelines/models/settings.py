"""Settings of stored memories."""

from typing import Literal

StateType = Literal["float16", "float32"]
