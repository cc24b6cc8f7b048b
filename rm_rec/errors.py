"""Errors that a user of the library can cause, and warnings; each message is one line."""


class RmRecError(Exception):
    """Base class of every error that a user can cause; the message names expected, actual and what to do.

    >>> issubclass(BatchError, RmRecError), issubclass(ConfigError, RmRecError)
    (True, True)
    """


class BatchError(RmRecError, ValueError):
    """A batch, histories or queries are inconsistent, or do not fit the model.

    >>> import torch
    >>> from rm_rec import Histories
    >>> Histories(lengths=torch.tensor([2]), time=torch.tensor([9, 5]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rm_rec.errors.BatchError: time of event 1 is 5, earlier than its user's event before (9); ...
    """


class ConfigError(RmRecError, ValueError):
    """A model cannot be built from a config.

    >>> from rm_rec import MemoryConfig, UserMemory
    >>> UserMemory(MemoryConfig(machine={"kind": "acme.machines:Fading"}))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rm_rec.errors.ConfigError: machine.kind acme.machines:Fading needs code of package 'acme'; ...
    """


class RenamedWarning(FutureWarning):
    """A name from an earlier version was used; the message gives the current name."""
