"""What can be wrong with data at rest, said in one line that names file, column, row and mend."""


class DataError(ValueError):
    """The data, or what was asked of it, cannot be used; the message names expected, actual and the mend."""
