"""Histories and queries that contradict each other or the memory say what was expected and what was found."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from rm_rec.config import MemoryConfig
from rm_rec.errors import BatchError
from rm_rec.histories import Histories, Queries
from rm_rec.user_memory import UserMemory

DIM = 8


@pytest.fixture(autouse=True)
def _as_users_run_it() -> Iterator[None]:
    """Tests alone check shapes and types at every call; whoever uses the package is told by its own words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


HISTORIES: dict[str, Any] = {
    "lengths": torch.tensor([3, 0, 2]),
    "time": torch.tensor([5, 7, 7, 3, 9]),
    "tokens": torch.ones(5, DIM),
    "keys": {"item": torch.arange(5)},
}
QUERIES: dict[str, Any] = {
    "tokens": torch.ones(4, DIM),
    "user": torch.tensor([0, 0, 1, 2]),
    "time": torch.tensor([8, 6, 1, 10]),
    "num_earlier": torch.tensor([3, 1, 0, 2]),
    "keys": {"item": torch.arange(4)},
}


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


WRONG_HISTORIES: list[tuple[str, dict[str, Any], str]] = [
    ("float lengths", {"lengths": torch.tensor([3.0, 0.0, 2.0])}, "lengths is float32, expected int64"),
    ("float time", {"time": torch.arange(5.0)}, "time is float32, expected int64"),
    ("short time", {"time": torch.arange(5, dtype=torch.int32)}, "time is int32, expected int64"),
    ("float key", {"keys": {"item": torch.ones(5)}}, "keys\\['item'\\] is float32, expected int64"),
    ("key with a dot", {"keys": {"an.item": torch.arange(5)}}, "a key is called 'an.item'; use a name without dots"),
    ("fewer tokens", {"tokens": torch.ones(4, DIM)}, "tokens has 4 rows, expected 5 \\(as many as time\\)"),
    ("fewer keys", {"keys": {"item": torch.arange(3)}}, "item has 3 rows, expected 5 \\(as many as time\\)"),
    ("negative lengths", {"lengths": ids(3, -1, 3)}, "lengths has -1, expected 0 or more"),
    ("lengths of more", {"lengths": ids(3, 0, 3)}, "time has 5 rows, expected 6 \\(the sum of lengths\\)"),
    ("unsorted", {"time": ids(5, 7, 6, 3, 9)}, "time of event 2 is 6, earlier than its user's event before \\(7\\)"),
    ("unsorted at the end", {"time": ids(5, 7, 7, 3, 2)}, "time of event 4 is 2, earlier than .* before \\(3\\)"),
]


@pytest.mark.parametrize(
    ("changed", "message"), [case[1:] for case in WRONG_HISTORIES], ids=[case[0] for case in WRONG_HISTORIES]
)
def test_histories_that_contradict_themselves_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        Histories(**HISTORIES | changed)


def test_only_a_users_own_events_are_in_order_of_time() -> None:
    Histories(**HISTORIES)  # the last user's first event is earlier than the first user's last
    for lengths in (ids(0, 2, 0, 0, 3, 0), ids(1, 1, 1, 1, 1)):
        Histories(lengths=lengths, time=ids(5, 7, 1, 1, 2) if len(lengths) == 6 else ids(5, 4, 3, 2, 1))
    assert Histories(lengths=ids(), time=ids()).num_users == 0
    assert Histories(lengths=ids(0, 0), time=ids()).first.tolist() == [0, 0]


def test_padded_histories_keep_what_is_real() -> None:
    tokens, time = torch.randn(3, 4, DIM), torch.arange(12).view(3, 4)
    found = Histories.padded(tokens, time, ids(2, 0, 4), {"item": 100 + time})
    assert found.lengths.tolist() == [2, 0, 4]
    assert found.time.tolist() == [0, 1, 8, 9, 10, 11]
    assert found.keys["item"].tolist() == [100, 101, 108, 109, 110, 111]
    assert found.tokens is not None
    assert torch.equal(found.tokens, torch.cat([tokens[0, :2], tokens[2]]))
    assert Histories.padded(tokens, time).lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time": torch.zeros(3, 5, dtype=torch.int64)}, "time has shape \\(3, 5\\), expected \\(3, 4\\)"),
        ({"keys": {"item": ids(1, 2, 3)}}, "item has shape \\(3,\\), expected \\(3, 4\\)"),
        ({"lengths": ids(2, 5, 4)}, "lengths has 5, but histories are padded to 4 events"),
    ],
    ids=["time", "keys", "lengths"],
)
def test_padding_that_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"tokens": torch.zeros(3, 4, DIM), "time": torch.zeros(3, 4, dtype=torch.int64)}
    with pytest.raises(BatchError, match=message):
        Histories.padded(**given | changed)


WRONG_QUERIES: list[tuple[str, dict[str, Any], str]] = [
    ("float user", {"user": torch.zeros(4)}, "user is float32, expected int64"),
    ("float time", {"time": torch.zeros(4)}, "time is float32, expected int64"),
    ("float num_earlier", {"num_earlier": torch.zeros(4)}, "num_earlier is float32, expected int64"),
    ("float key", {"keys": {"item": torch.zeros(4)}}, "keys\\['item'\\] is float32, expected int64"),
    ("fewer users", {"user": ids(0, 1)}, "user has 2 rows, expected 4 \\(as many as tokens\\)"),
    ("more times", {"time": ids(1, 2, 3, 4, 5)}, "time has 5 rows, expected 4 \\(as many as tokens\\)"),
    ("fewer num_earlier", {"num_earlier": ids(1)}, "num_earlier has 1 rows, expected 4 \\(as many as tokens\\)"),
    ("fewer keys", {"keys": {"item": ids(1)}}, "keys\\['item'\\] has 1 rows, expected 4 \\(as many as tokens\\)"),
]


@pytest.mark.parametrize(
    ("changed", "message"), [case[1:] for case in WRONG_QUERIES], ids=[case[0] for case in WRONG_QUERIES]
)
def test_queries_that_contradict_themselves_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        Queries(**QUERIES | changed)


@pytest.fixture
def memory() -> UserMemory:
    return UserMemory(MemoryConfig(token_dim=DIM, segment_length=2))


# What histories and queries say of each other. Time 7 of the first user's two last events is not before time 7.
APART: list[tuple[str, dict[str, Any], str]] = [
    ("as late", {"time": ids(7, 6, 1, 10)}, "time of query 0 is 7, but it sees an event of time 7: a query must be"),
    ("earlier", {"time": ids(8, 4, 1, 10)}, "time of query 1 is 4, but it sees an event of time 5"),
    ("all seen", {"num_earlier": None}, "time of query 1 is 6, but it sees an event of time 7"),
    ("too many", {"num_earlier": ids(4, 1, 0, 2)}, "num_earlier of query 0 is 4, expected 0 to 3: its user's number"),
    ("of nobody's", {"num_earlier": ids(3, 1, 1, 2)}, "num_earlier of query 2 is 1, expected 0 to 0"),
    ("fewer than none", {"num_earlier": ids(3, 1, 0, -1)}, "num_earlier of query 3 is -1, expected 0 to 2"),
    ("a user too many", {"user": ids(0, 0, 1, 3)}, "user of the queries goes from 0 to 3, expected 0 to 2"),
    ("a user below", {"user": ids(0, -1, 1, 2)}, "user of the queries goes from -1 to 2, expected 0 to 2"),
    (
        "token dim",
        {"tokens": torch.ones(4, 5)},
        "tokens of queries have 5 numbers each, expected the memory's token_dim, 8",
    ),
]


@pytest.mark.parametrize(("changed", "message"), [case[1:] for case in APART], ids=[case[0] for case in APART])
def test_queries_that_do_not_fit_histories_are_refused(
    memory: UserMemory, changed: dict[str, Any], message: str
) -> None:
    histories, queries = Histories(**HISTORIES), Queries(**QUERIES | changed)
    with pytest.raises(BatchError, match=message):
        memory(histories, queries)
    with pytest.raises(BatchError, match=message):
        memory(histories, queries, memory.initial(3, ("item",)))


def test_tokens_of_events_are_of_the_memorys_size_and_there(memory: UserMemory) -> None:
    queries = Queries(**QUERIES)
    wide, none = (Histories(**HISTORIES | {"tokens": tokens}) for tokens in (torch.ones(5, 9), None))
    kept = memory.initial(3)
    for call in (lambda h: memory(h, queries), lambda h: memory(h, queries, kept), lambda h: memory.fold(kept, h)):
        with pytest.raises(
            BatchError, match="tokens of histories have 9 numbers each, expected the memory's token_dim, 8"
        ):
            call(wide)
        with pytest.raises(BatchError, match="histories have no tokens: give vectors of events, or `embed`"):
            call(none)


def test_what_a_memory_holds_is_seen_too(memory: UserMemory) -> None:
    kept = memory.fold(memory.initial(3), Histories(**HISTORIES))
    later = Histories(lengths=ids(1, 0, 0), time=ids(20), tokens=torch.ones(1, DIM), keys={"item": ids(1)})
    early = Queries(tokens=torch.ones(1, DIM), user=ids(2), time=ids(9))
    for call in (lambda q: memory.answer(kept, q), lambda q: memory(later, q, kept)):
        with pytest.raises(BatchError, match="time of query 0 is 9, but it sees an event of time 9"):
            call(early)
        call(replace(early, time=ids(10)))
        # Whoever has no events sees none, of whatever time.
        call(replace(early, user=ids(1), time=ids(-(2**40))))
        with pytest.raises(BatchError, match="user of the queries goes from 3 to 3, expected 0 to 2"):
            call(replace(early, user=ids(3)))
    with pytest.raises(BatchError, match="queries of a memory have num_earlier, but see all"):
        memory.answer(kept, replace(early, time=ids(10), num_earlier=ids(2)))
    with pytest.raises(BatchError, match="tokens of queries have 5 numbers each, expected the memory's token_dim, 8"):
        memory.answer(kept, replace(early, tokens=torch.ones(1, 5), time=ids(10)))


def test_nobodys_history_is_no_history_to_be_refused(memory: UserMemory) -> None:
    nobody = Histories(lengths=ids(0), time=ids(), tokens=torch.ones(0, DIM))
    query = Queries(tokens=torch.ones(1, DIM), user=ids(0), time=ids(-5), num_earlier=ids(0))
    assert memory(nobody, query).shape == (1, memory.num_features)
