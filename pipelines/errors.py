"""Errors of the jobs that are not about data: settings, trained models, training runs, MLflow and its model registry.

Each message is one line that names what was expected, what was there and what to do. `pipelines.cli.job.run_job` prints
it and exits with code 2.
"""

from rm_rec.errors import RmRecError


class SettingsError(RmRecError, ValueError):
    """The config files or the command line cannot be used; one line for each mistake."""


class ModelError(RmRecError, ValueError):
    """A trained model cannot be used.

    It is missing, damaged or of another format, needs a package that is not allowed, or does not fit the log or the
    memories that it is used with.
    """


class RunError(RmRecError, ValueError):
    """A run's output folder or checkpoint is damaged, or belongs to a run with other settings or another log."""


class TrackingError(RmRecError):
    """MLflow cannot be reached, refuses a request, or does not have what was requested."""


class RegistryError(RmRecError):
    """A registered model lacks the version, alias or training record that a job needs, or another job changed it."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message; the name of its class if there is no message.

    >>> first_line(ValueError("no such column\nLINE 1: select")), first_line(ValueError())
    ('no such column', 'ValueError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
