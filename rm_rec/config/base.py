"""The bases of every block of a model's settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen block of settings; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MachineSettings(Settings):
    """The base of every machine's settings, whose `kind`, a Literal with a default, is the machine's name."""

    kind: str


class ReaderSettings(Settings):
    """The base of every reader's settings, whose `kind`, a Literal with a default, is the reader's name."""

    kind: str


class EncoderSettings(Settings):
    """The base of every encoder's settings, whose `kind`, a Literal with a default, is the encoder's name."""

    kind: str
