"""A check of one promise of the contract, and the functions with which checks report what they saw."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from feature_store.errors import DataError
from feature_store.stores.store import MemoryStore
from rm_rec.errors import RmRecError

NewLocation = Callable[[], str]
_SHOWN = 200  # characters of a value in a message


class ContractError(AssertionError):
    """A store breaks a promise of the contract; the message says which, and what was seen.

    It is an AssertionError, so that every test runner counts it as a failure; it is raised under `python -O` too.
    """


@final
@dataclass(frozen=True)
class StoreCheck:
    """One promise of all stores of memories; call it to test a store: `check(MyStore, new_location)`."""

    run: Callable[[type[MemoryStore], NewLocation], None]

    @property
    def name(self) -> str:
        """The name of the promise, for the ids of tests."""
        return self.run.__name__

    @property
    def promise(self) -> str:
        """The promise in one or more sentences."""
        return " ".join((self.run.__doc__ or "").split())

    def __str__(self) -> str:
        return self.name

    def __call__(self, kind: type[MemoryStore], new_location: NewLocation) -> None:
        """Test the promise on new stores of a class.

        Raises:
            ContractError: the promise is broken; an unexpected error of the store is the cause (`__cause__`).
        """
        try:
            self.run(kind, new_location)
        except ContractError as error:
            raise ContractError(f"{self.name}: {error} (promised: {self.promise})") from error.__cause__
        except Exception as error:
            raise ContractError(
                f"{self.name}: the store raised {type(error).__name__}: {error} (promised: {self.promise})"
            ) from error


def expect(condition: bool, message: str) -> None:
    """Raise ContractError with the message unless the condition holds."""
    if not condition:
        raise ContractError(message)


def expect_equal(label: str, actual: object, expected: object) -> None:
    """Raise ContractError unless the actual value equals the expected one."""
    expect(actual == expected, f"{label} gave {_shortened(actual)}, expected {_shortened(expected)}")


def expect_records(label: str, actual: Mapping[Any, bytes], *expected: Mapping[Any, bytes]) -> None:
    """Raise ContractError unless the records, user -> bytes, equal one of the expected ones."""
    if any(actual == records for records in expected):
        return
    first = expected[0]
    differences = {
        "lacks users": sorted(first.keys() - actual.keys()),
        "has unexpected users": sorted(actual.keys() - first.keys()),
        "has other records than were written for users": sorted(
            user for user in first.keys() & actual.keys() if first[user] != actual[user]
        ),
    }
    texts = [f"{difference} {_shortened(users)}" for difference, users in differences.items() if users]
    raise ContractError(f"{label} {'; '.join(texts)}")


@contextmanager
def expect_error(label: str, naming: str = "", error_type: type[RmRecError] = DataError) -> Iterator[None]:
    """Raise ContractError unless the block raises an `error_type` whose message is one line and contains `naming`."""
    try:
        yield
    except error_type as error:
        expect("\n" not in str(error), f"{label} was refused in several lines: {_shortened(str(error))}")
        match = re.search(rf"(?<!\w){re.escape(naming)}(?!\w)", str(error))  # whole words: user 5 is not user 50
        expect(
            not naming or match is not None,
            f"{label} was refused by {_shortened(str(error))}, which does not name {naming!r}",
        )
    except Exception as error:
        raise ContractError(
            f"{label} ended in {type(error).__name__}: {error}, expected a {error_type.__name__}"
        ) from error
    else:
        raise ContractError(f"{label} was accepted, expected a {error_type.__name__}")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
