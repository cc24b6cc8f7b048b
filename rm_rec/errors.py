"""What can be wrong with what a user hands to the library, said in one line."""


class RmRecError(Exception):
    """The parent of every error a user of the library can cause; the message names expected, actual and the mend."""


class BatchError(RmRecError, ValueError):
    """A batch contradicts itself or the model's features."""


class ConfigError(RmRecError, ValueError):
    """A config has a value that the model cannot be built from."""
