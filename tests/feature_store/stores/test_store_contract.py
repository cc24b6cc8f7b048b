"""The contract of stores itself: docs/memories.md's own store keeps it, and each way to be wrong is told by name."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_store.errors import DataError
from feature_store.testing import STORE_CHECKS, ContractError, StoreCheck, check_store
from feature_store.testing.contract import expect_error, expect_records
from feature_store.testing.sample_memories import SCHEMA, arrays
from tests.feature_store.stores.wrong_stores import (
    SHOWN,
    WRONG,
    AnswersInAnotherOrder,
    ForgetsTheJournal,
    LosesTombstones,
    OpensWhatIsNotThere,
    SqliteStore,
    WrongStore,
)

CHECKS = {check.name: check for check in STORE_CHECKS}
NewLocation = Callable[[], str]


@pytest.fixture
def new_location(tmp_path: Path) -> NewLocation:
    return lambda: str(tmp_path / uuid.uuid4().hex)


def test_the_store_on_the_page_keeps_the_contract_by_the_test_on_the_page(tmp_path: Path) -> None:
    SHOWN["test_my_store_keeps_the_contract"](tmp_path)


@pytest.mark.parametrize("check", STORE_CHECKS, ids=str)
def test_each_promise_can_be_tried_by_itself(check: StoreCheck, new_location: NewLocation) -> None:
    check(WrongStore, new_location)  # which is not wrong yet
    assert check.promise.endswith(".")
    assert "  " not in check.promise


@pytest.mark.parametrize(("wrong", "promise"), WRONG.items(), ids=[wrong.__name__ for wrong in WRONG])
def test_a_store_that_breaks_a_promise_is_told_which(
    wrong: type[WrongStore], promise: str, new_location: NewLocation
) -> None:
    with pytest.raises(ContractError, match=f"^{promise}: ") as caught:
        CHECKS[promise](wrong, new_location)
    assert CHECKS[promise].promise in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_promise_is_broken_by_some_store_here() -> None:
    assert len(CHECKS) == len(STORE_CHECKS)
    assert set(WRONG.values()) == set(CHECKS)


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        (LosesTombstones, "deleted([5, 6, 1000, null]) gave [False, False, False, False], expected [True, False"),
        (AnswersInAnotherOrder, "gave [5, 39, -20, 5], expected [5, -20, 39, 5]"),
        (ForgetsTheJournal, "journal() of a store opened again gave Journal(builds=(), under_way=None)"),
    ],
)
def test_a_broken_promise_says_what_was_seen(wrong: type[WrongStore], seen: str, new_location: NewLocation) -> None:
    with pytest.raises(ContractError) as caught:
        CHECKS[WRONG[wrong]](wrong, new_location)
    assert seen in str(caught.value)


def test_the_whole_contract_tells_every_broken_promise(new_location: NewLocation) -> None:
    with pytest.raises(ContractError) as caught:
        check_store(LosesTombstones, new_location)
    head, *told = str(caught.value).splitlines()
    assert head == f"LosesTombstones breaks 2 of {len(STORE_CHECKS)} promises of a store of memories:"
    broken = ["a_deleted_user_stays_deleted", "tombstones_of_another_store_are_kept"]
    assert [line.partition(":")[0] for line in told] == broken


def test_an_error_that_a_store_should_not_raise_is_the_cause(new_location: NewLocation) -> None:
    check = CHECKS["a_missing_store_cannot_be_opened"]
    with pytest.raises(ContractError, match=r"ended in FileNotFoundError: .*expected a NoMemoriesError") as caught:
        check(OpensWhatIsNotThere, new_location)
    assert isinstance(caught.value.__cause__, FileNotFoundError)

    class Dies(SqliteStore):
        def journal(self) -> None:
            raise KeyError("journal")

    with pytest.raises(ContractError, match="the store raised KeyError: 'journal'") as caught:
        CHECKS["a_second_build_replaces_and_adds"](Dies, new_location)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_refusal_is_one_line_that_names_what_it_is_about() -> None:
    with expect_error("a write", "user 5"):
        raise DataError("here: user 5 was deleted")
    for message, said in [
        ("here: user 50 was deleted", "does not name 'user 5'"),
        ("here:\nuser 5 was deleted", "in several lines"),
    ]:
        with pytest.raises(ContractError, match=said), expect_error("a write", "user 5"):
            raise DataError(message)
    with pytest.raises(ContractError, match="a write was accepted, expected a DataError"), expect_error("a write"):
        pass


def test_records_that_differ_are_told_by_user() -> None:
    expect_records("read_all()", {1: b"a"}, {2: b"b"}, {1: b"a"})
    with pytest.raises(ContractError) as caught:
        expect_records("read_all()", {1: b"a", 2: b"b"}, {2: b"c", 3: b"d"})
    others = "has unexpected users [1]; has other records than were written for users [2]"
    assert str(caught.value) == f"read_all() lacks users [3]; {others}"


def test_sample_memories_reach_far_to_both_sides() -> None:
    """A store that keeps less of a number than it has bits for must be seen."""
    drawn = arrays(SCHEMA, 40)
    for values in (drawn["last_time"], drawn["window"]["time"]):
        assert values.min() < -(2**60) < 2**60 < values.max()
    assert drawn["window"]["item"].min() < -(2**30) < 2**30 < drawn["window"]["item"].max()
    assert drawn["window"]["time_gap"].max() > 200
