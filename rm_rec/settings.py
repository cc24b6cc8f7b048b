"""The base of every block of a model's settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen block of settings; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
