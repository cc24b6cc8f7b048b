"""Errors about data at rest, each one line that names the file, column or row and says how to fix it."""

from rm_rec.errors import RmRecError


class DataError(RmRecError, ValueError):
    """A log, a file or a store cannot be used; the message says what was expected, what is there, and how to fix it."""


class LockedError(RmRecError):
    """Another process has locked a folder or a store; the message says which, and what to do."""
