"""Users' events: read from a bucket of a prepared log, and taken by user and by event."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.data_config import Columns, DataConfig
from feature_store.logs.preparation import prepare
from feature_store.sequences.user_events import UserEvents, read_user_events
from feature_store.vocabulary.vocabularies import Vocabularies
from tests.feature_store.small_logs import random_log, silent

COLUMNS = Columns(event_features=("action",), item_features=("category",))


def some_events(lengths: list[int]) -> UserEvents:
    """Users "a", "b", …; the nth event has time n, item 10 n."""
    count = sum(lengths)
    return UserEvents(
        users=pa.array([chr(97 + user) for user in range(len(lengths))], pa.string()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        time=np.arange(count),
        features={"item": 10 * np.arange(count)},
        bucket_table=pa.table({"time": np.arange(count)}),
        rows=np.arange(count),
    )


def as_lists(events: UserEvents) -> list[tuple[str, list[int]]]:
    """Each user's times; checks that features and table lie alike."""
    np.testing.assert_array_equal(events.features["item"], 10 * events.time)
    assert events.table["time"].to_pylist() == events.time.tolist()
    assert len(events.offsets) == len(events.users) + 1
    bounds = zip(events.offsets, events.offsets[1:], strict=False)
    return list(zip(events.users.to_pylist(), [events.time[a:b].tolist() for a, b in bounds], strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=6), st.data())
def test_taking_equals_a_slow_loop(lengths: list[int], data: st.DataObject) -> None:
    events = some_events(lengths)
    slow = as_lists(events)
    assert events.lengths.tolist() == lengths
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)) if lengths else []
    assert as_lists(events.of_users(np.array(chosen, np.int64))) == [slow[user] for user in chosen]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths))), bool)
    kept = [(user, [time for time in times if mask[time]]) for user, times in slow]
    assert as_lists(events.where(mask)) == kept
    halves = [np.array(chosen[:1], np.int64), np.array(chosen[1:], np.int64)]
    assert as_lists(UserEvents.concat([events.of_users(half) for half in halves])) == [slow[user] for user in chosen]
    values = np.arange(len(lengths)) * 7
    expected = [7 * user for user, length in enumerate(lengths) for _ in range(length)]
    assert events.of_each_event(values).tolist() == expected


@pytest.mark.parametrize("text", [False, True])
def test_a_bucket_is_read_with_the_models_rows(tmp_path: Path, write: Callable[..., str], text: bool) -> None:
    log = random_log()
    if text:
        log = log.set_column(0, "user_id", log["user_id"].cast(pa.string()))
    config = DataConfig(log=write(log), columns=COLUMNS, events_per_bucket=200, duplicate_rows="keep")
    prepared = prepare(config, tmp_path / "out", notify=silent)
    vocabularies = Vocabularies.fit(prepared, config)
    found: dict[Any, list[tuple[int, int, int]]] = {}
    for bucket in prepared.buckets():
        events = read_user_events(prepared, bucket, vocabularies.features, COLUMNS)
        assert set(events.features) == {"item", "action", "category"}
        assert set(events.table.column_names) == {"user", "time", "item", "feature:action", "feature:category"}
        rows = list(zip(events.time, events.features["item"], events.features["action"], strict=True))
        for place, user in enumerate(events.users.to_pylist()):
            found[user] = [tuple(map(int, row)) for row in rows[events.offsets[place] : events.offsets[place + 1]]]
    item, action = (
        vocabularies.features[name].encode(log[f]) for name, f in (("item", "item_id"), ("action", "action"))
    )
    expected: dict[Any, list[tuple[int, int, int]]] = {}
    for user, time, *rows in zip(log["user_id"].to_pylist(), log["timestamp"].to_pylist(), item, action, strict=True):
        expected.setdefault(user, []).append((time, int(rows[0]), int(rows[1])))
    assert found == {user: sorted(events, key=lambda row: row[0]) for user, events in expected.items()}
