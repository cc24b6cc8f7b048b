"""What a check of a contract is, and how it says which promise is broken and what was seen."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from feature_store.errors import DataError
from feature_store.stores.store import MemoryStore
from rm_rec.errors import RmRecError

NewPlace = Callable[[], str]
_SHOWN = 200  # characters of a value in a message


class ContractError(AssertionError):
    """A promise of a contract is broken; the message says which, and what was seen.

    It is an AssertionError, so that every test runner counts a failure, and it is raised whether or not Python runs
    with assertions (`-O`).
    """


@final
@dataclass(frozen=True)
class StoreCheck:
    """One promise of a store of memories, and what tries it: `check(MyStore, new_place)`."""

    run: Callable[[type[MemoryStore], NewPlace], None]

    @property
    def name(self) -> str:
        """The promise's name, as tests may show it."""
        return self.run.__name__

    @property
    def promise(self) -> str:
        """What is promised, in a sentence or two."""
        return " ".join((self.run.__doc__ or "").split())

    def __str__(self) -> str:
        return self.name

    def __call__(self, kind: type[MemoryStore], new_place: NewPlace) -> None:
        """Try the promise on new stores of a kind.

        Raises:
            ContractError: it is broken. An error that the store should not have raised is its cause.
        """
        try:
            self.run(kind, new_place)
        except ContractError as error:
            raise ContractError(f"{self.name}: {error} (promised: {self.promise})") from error.__cause__
        except Exception as error:
            raise ContractError(
                f"{self.name}: the store raised {type(error).__name__}: {error} (promised: {self.promise})"
            ) from error


def expect(kept: bool, seen: str) -> None:
    """Raise a ContractError that tells what was seen, unless a promise is kept."""
    if not kept:
        raise ContractError(seen)


def expect_equal(what: str, found: object, expected: object) -> None:
    """Raise a ContractError unless what was found is what was expected."""
    expect(found == expected, f"{what} gave {_shown(found)}, expected {_shown(expected)}")


def expect_records(what: str, found: Mapping[Any, bytes], *expected: Mapping[Any, bytes]) -> None:
    """Raise a ContractError unless the records [user -> bytes] are what was expected, or one of several such."""
    if any(found == records for records in expected):
        return
    nearest = expected[0]
    seen = {
        "lacks users": sorted(nearest.keys() - found.keys()),
        "has users who were not expected:": sorted(found.keys() - nearest.keys()),
        "has other records than were written for users": sorted(
            user for user in nearest.keys() & found.keys() if nearest[user] != found[user]
        ),
    }
    raise ContractError(f"{what} " + "; ".join(f"{how} {_shown(users)}" for how, users in seen.items() if users))


@contextmanager
def refused(what: str, naming: str = "", error_type: type[RmRecError] = DataError) -> Iterator[None]:
    """Raise a ContractError unless the block ends in an `error_type` of one line that contains `naming`."""
    try:
        yield
    except error_type as error:
        expect("\n" not in str(error), f"{what} was refused in several lines: {_shown(str(error))}")
        named = re.search(rf"(?<!\w){re.escape(naming)}(?!\w)", str(error))  # whole: user 5 is not user 50
        expect(
            not naming or named is not None,
            f"{what} was refused by {_shown(str(error))}, which does not name {naming!r}",
        )
    except Exception as error:
        raise ContractError(
            f"{what} ended in {type(error).__name__}: {error}, expected a {error_type.__name__}"
        ) from error
    else:
        raise ContractError(f"{what} was accepted, expected a {error_type.__name__}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
