"""A batch that contradicts itself or the model says what was expected and what was found."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch

from rm_rec.batch import UserBatch
from rm_rec.errors import BatchError
from tests.support.fakes import FEATURES, click_model, user_batch


@pytest.fixture
def batch() -> UserBatch:
    return user_batch([3, 0, 2], [[3, 0], [0], [1]])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("impression_lengths", {"impression_lengths": torch.tensor([2, 2])}, "impression_lengths has 2 rows, expected 3"),
    ("event_time", {"event_time": torch.zeros(4, dtype=torch.int64)}, "event_time has 4 rows, expected 5"),
    ("label", {"label": torch.zeros(5)}, "label has 5 rows, expected 4"),
    ("num_earlier", {"num_earlier": torch.zeros(3, dtype=torch.int64)}, "num_earlier has 3 rows, expected 4"),
    (
        "impression_time",
        {"impression_time": torch.zeros(0, dtype=torch.int64)},
        "impression_time has 0 rows, expected 4",
    ),
    ("context_dense", {"context_dense": torch.zeros(1, 2)}, "context_dense has 1 rows, expected 4"),
    ("events", {"events": {"item": torch.zeros(1, dtype=torch.int64)}}, "events\\['item'\\] has 1 rows, expected 5"),
    ("targets", {"targets": {"item": torch.zeros(1, dtype=torch.int64)}}, "targets\\['item'\\] has 1 rows, expected 4"),
    ("context", {"context": {"hour": torch.zeros(9, dtype=torch.int64)}}, "context\\['hour'\\] has 9 rows, expected 4"),
    ("too many seen", {"num_earlier": torch.tensor([3, 0, 1, 1])}, "num_earlier of impression 2 is 1, expected 0 to 0"),
    (
        "seen of another",
        {"num_earlier": torch.tensor([4, 0, 0, 1])},
        "num_earlier of impression 0 is 4, expected 0 to 3",
    ),
    (
        "fewer than none",
        {"num_earlier": torch.tensor([0, 0, 0, -1])},
        "num_earlier of impression 3 is -1, expected 0 to 2",
    ),
]


@pytest.mark.parametrize(("changed", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_batch_that_contradicts_itself_is_refused(batch: UserBatch, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        replace(batch, **changed)


def test_negative_lengths_are_refused() -> None:
    batch = user_batch([3, 2], [[0], [0]])
    with pytest.raises(BatchError, match="event_lengths has -1, expected 0 or more"):
        replace(batch, event_lengths=torch.tensor([6, -1]))
    with pytest.raises(BatchError, match="impression_lengths has -2, expected 0 or more"):
        replace(batch, impression_lengths=torch.tensor([4, -2]))


FOREIGN: list[tuple[str, str, dict[str, Any], str]] = [
    ("lacks", "events", {"item": 0}, "events has features \\['item'\\], the model expects \\['category', 'item'\\]"),
    (
        "has more",
        "context",
        {"hour": 0, "day": 0},
        "context has features \\['day', 'hour'\\], the model expects \\['hour'\\]",
    ),
    ("none", "targets", {}, "targets has features \\[\\], the model expects \\['category', 'item'\\]"),
    ("too large", "events", {"item": 50, "category": 0}, "events\\['item'\\] has ids from 50 to 50, .* rows 0 to 49"),
    (
        "negative",
        "targets",
        {"item": 0, "category": -1},
        "targets\\['category'\\] has ids from -1 to -1, .* rows 0 to 6",
    ),
    ("context's", "context", {"hour": 5}, "context\\['hour'\\] has ids from 5 to 5, .* rows 0 to 4"),
]


@pytest.mark.parametrize(("place", "ids", "message"), [case[1:] for case in FOREIGN], ids=[case[0] for case in FOREIGN])
def test_a_batch_that_is_not_the_models_is_refused(
    batch: UserBatch, place: str, ids: dict[str, int], message: str
) -> None:
    count = 5 if place == "events" else 4
    foreign = replace(batch, **{place: {name: torch.full((count,), value) for name, value in ids.items()}})
    with pytest.raises(BatchError, match=message):
        foreign.check(FEATURES)
    with pytest.raises(BatchError, match=message):
        click_model()(foreign)


@pytest.mark.parametrize("shape", [(4, 3), (4, 0)], ids=str)
def test_dense_context_of_another_width_is_refused(batch: UserBatch, shape: tuple[int, ...]) -> None:
    with pytest.raises(BatchError, match=f"context_dense has {shape[1]} columns, the model expects 2"):
        replace(batch, context_dense=torch.zeros(shape)).check(FEATURES)


def test_a_batch_of_the_model_passes_and_so_do_the_largest_ids(batch: UserBatch) -> None:
    batch.check(FEATURES)
    largest = {name: torch.full((5,), FEATURES.rows[name] - 1) for name in batch.events}
    replace(batch, events=largest).check(FEATURES)
    user_batch([], []).check(FEATURES)


def test_each_impression_knows_its_user(batch: UserBatch) -> None:
    assert batch.num_users == 3
    assert batch.impression_user.tolist() == [0, 0, 1, 2]


def test_a_moved_batch_holds_the_same(batch: UserBatch) -> None:
    moved = batch.to(torch.device("cpu"))
    assert [field.name for field in fields(moved)] == [field.name for field in fields(batch)]
    torch.testing.assert_close(asdict(moved), asdict(batch))
