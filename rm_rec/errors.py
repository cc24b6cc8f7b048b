"""Errors that a user of the library can cause, and warnings; each message is one line."""


class RmRecError(Exception):
    """The parent of every error a user of the library can cause; the message names expected, actual and the fix.

    >>> issubclass(BatchError, RmRecError), issubclass(ConfigError, RmRecError)
    (True, True)
    """


class BatchError(RmRecError, ValueError):
    """A batch, histories or queries contradict themselves, or the model that they are given to.

    >>> import torch
    >>> from rm_rec import Histories
    >>> Histories(lengths=torch.tensor([2]), time=torch.tensor([9, 5]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rm_rec.errors.BatchError: time of event 1 is 5, earlier than its user's event before (9); ...
    """


class ConfigError(RmRecError, ValueError):
    """A config has a value that the model cannot be built from.

    >>> from rm_rec import MemoryConfig, UserMemory
    >>> UserMemory(MemoryConfig(machine={"kind": "acme.machines:Fading"}))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rm_rec.errors.ConfigError: machine.kind acme.machines:Fading needs code of package 'acme'; ...
    """


class RenamedWarning(FutureWarning):
    """A name of an earlier version was used; the message says the present one."""
