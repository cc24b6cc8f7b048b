import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.data_config import (
    Columns,
    DataConfig,
    LabelColumn,
    NextEvent,
    SplitByPosition,
    SplitByTime,
    SplitByUser,
    VocabularySizes,
)
from feature_store.logs.splits import TEST, TRAIN, VALIDATION
from feature_store.ragged import offsets_of
from feature_store.sequences.user_sequences import UserSequences
from tests.feature_store.small_logs import assert_equal, by_user, random_log

Load = Callable[..., Any]
COLUMNS = Columns(event_features=("action",), item_features=("category",))
SIZES = VocabularySizes(min_count=1)


@st.composite
def made_up(draw: st.DrawFn) -> UserSequences:
    events = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    impressions = [draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, 2)), max_size=4)) for n in events]
    flat = [pair for row in impressions for pair in row]
    num_events, num_impressions = sum(events), len(flat)
    return UserSequences(
        users=pa.array(range(len(events))),
        event_offsets=offsets_of(np.array(events)),
        event_time=np.arange(num_events) * 10,
        events={"item": np.arange(num_events) + 500},
        impression_offsets=offsets_of(np.array([len(row) for row in impressions])),
        impression_time=np.arange(num_impressions) + 7,
        num_earlier=np.array([n for n, _ in flat], np.int64),
        split=np.array([s for _, s in flat], np.int8),
        label=np.arange(num_impressions, dtype=np.float32) % 2,
        item=pa.array(np.arange(num_impressions) + 900),
        targets={"item": np.arange(num_impressions) + 100},
        context={"place": np.arange(num_impressions) + 200},
        context_dense=np.arange(num_impressions, dtype=np.float32)[:, None] * 2,
        carried={"p": np.arange(num_impressions) / 3},
    )


@given(made_up(), st.data(), st.sampled_from([None, 0, 1, 2]), st.booleans())
@settings(deadline=None, max_examples=80)
def test_select_equals_a_slow_loop(
    sequences: UserSequences, data: st.DataObject, split: int | None, trim: bool
) -> None:
    users = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=5))
    chosen = sequences.select(np.array(users, np.int64), split, trim=trim)
    assert chosen.users.to_pylist() == users
    assert len(chosen) == len(users)
    for place, user in enumerate(users):
        first, last = sequences.impression_offsets[user : user + 2]
        kept = [i for i in range(first, last) if split is None or sequences.split[i] == split]
        mine = slice(*chosen.impression_offsets[place : place + 2])
        start, end = sequences.event_offsets[user : user + 2]
        if trim:
            end = start + max((sequences.num_earlier[i] for i in kept), default=0)
        events = slice(*chosen.event_offsets[place : place + 2])
        assert chosen.events["item"][events].tolist() == sequences.events["item"][start:end].tolist()
        assert chosen.event_time[events].tolist() == sequences.event_time[start:end].tolist()
        for ours, theirs in (
            (chosen.targets["item"], sequences.targets["item"]),
            (chosen.context["place"], sequences.context["place"]),
            (chosen.context_dense[:, 0], sequences.context_dense[:, 0]),
            (chosen.carried["p"], sequences.carried["p"]),
            (chosen.num_earlier, sequences.num_earlier),
            (chosen.impression_time, sequences.impression_time),
            (chosen.label, sequences.label),
            (chosen.split, sequences.split),
            (np.array(chosen.item.to_pylist()), np.array(sequences.item.to_pylist())),
        ):
            assert ours[mine].tolist() == theirs[kept].tolist()


def test_events_of_one_timestamp_do_not_see_each_other(write: Any, load: Load) -> None:
    log = {"user_id": [1, 1, 1, 2, 1], "item_id": [1, 2, 3, 4, 5], "timestamp": [5, 5, 9, 5, 5]}
    (sequences,) = load(DataConfig(log=write(log), impressions=NextEvent(negatives=1), vocabulary=SIZES))[2]
    assert sequences.num_earlier[::2].tolist() == [0, 0, 0, 3, 0]


def test_event_features_come_from_the_row_and_target_features_from_the_item(write: Any, load: Load) -> None:
    log = {"user_id": [1] * 4, "item_id": [7, 7, 7, 8], "timestamp": range(4), "category": ["a", "b", "b", "c"]}
    config = DataConfig(
        log=write({**log, "clicked": [0, 1, 1, 0]}),
        columns=Columns(item_features=("category",)),
        impressions=LabelColumn(column="clicked"),
        split=SplitByPosition(validation=0, test=0),
        vocabulary=SIZES,
    )
    _, vocabularies, (sequences,) = load(config)
    category = vocabularies.features["category"]
    assert sequences.events["category"].tolist() == category.encode(pa.array(["a", "b", "b", "c"])).tolist()
    assert sequences.targets["category"].tolist() == category.encode(pa.array(["b", "b", "b", "c"])).tolist()


SPLIT_KINDS = [SplitByPosition(validation=0.2, test=0.2), SplitByTime(validation_from=50, test_from=65)]


@pytest.mark.parametrize("split", [*SPLIT_KINDS, SplitByUser(validation=0.3, test=0.3)], ids=lambda split: split.kind)
@pytest.mark.parametrize("impressions", [NextEvent(negatives=2), LabelColumn(column="clicked")], ids=lambda i: i.kind)
def test_the_future_leaks_nowhere(write: Any, load: Load, split: Any, impressions: Any) -> None:
    log = random_log(users=20)
    base = {
        "columns": COLUMNS,
        "impressions": impressions,
        "split": split,
        "vocabulary": SIZES,
        "duplicate_rows": "keep",
    }
    _, before, parts = load(DataConfig(log=write(log, "before.parquet"), **base), "before")
    test_rows = _rows_of_split(log, parts, TEST, 1 + getattr(impressions, "negatives", 0))
    planted = log.to_pydict()
    for row in test_rows:
        planted["item_id"][row], planted["category"][row], planted["action"][row] = 999, 77, "steal"
        planted["clicked"][row] = 1 - planted["clicked"][row]
    _, after, changed = load(DataConfig(log=write(planted, "after.parquet"), **base), "after")
    # The planted item has no row of its own, is no negative, and its category is not known.
    assert before.num_rows() == after.num_rows()
    assert after.targets(pa.array([999]))["item"][0] < SIZES.oov_rows
    assert after.targets(pa.array([999]))["category"][0] == after.features["category"].encode(pa.nulls(1))[0]
    for part in changed:
        items = np.array(part.item.to_pylist())
        assert (items == 999).any()
        if isinstance(impressions, NextEvent):
            assert not (items[part.label == 0] == 999).any()
    for ours, theirs in zip(parts, changed, strict=True):
        everyone = np.arange(len(ours))
        for known in (TRAIN, VALIDATION):
            assert len(ours.select(everyone, known).label) > 0
            assert_equal(ours.select(everyone, known), theirs.select(everyone, known))
        assert (
            theirs.select(everyone, TEST).targets["item"].tolist()
            != ours.select(everyone, TEST).targets["item"].tolist()
        )


def _rows_of_split(log: pa.Table, parts: list[UserSequences], split: int, group: int) -> list[int]:
    """Find the log's rows whose own impression is in a split."""
    ordered = log.append_column("row", pa.array(range(log.num_rows)))
    ordered = ordered.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("row", "ascending")])
    chosen = np.concatenate([part.split[::group] == split for part in parts])
    return ordered.filter(pa.array(chosen))["row"].to_pylist()


REAL = {
    "delicious_tags": DataConfig(log="", impressions=NextEvent(), split=SplitByTime()),
    "movielens": DataConfig(log="", impressions=LabelColumn(column="rating", threshold=4), split=SplitByPosition()),
    "assistments2017": DataConfig(
        log="",
        columns=Columns(event_features=("correct",), item_features=("category_id",)),
        impressions=LabelColumn(column="correct"),
        split=SplitByUser(),
    ),
}


@pytest.mark.skipif("RM_REC_DATA" not in os.environ, reason="RM_REC_DATA does not name a folder of real logs")
@pytest.mark.parametrize("name", REAL)
def test_real_logs(load: Load, name: str) -> None:
    log = str(Path(os.environ["RM_REC_DATA"]) / f"{name}.parquet")
    config = REAL[name].model_copy(update={"log": log, "events_per_bucket": 200_000})
    prepared, vocabularies, parts = load(config)
    assert sum(len(part) for part in parts) == prepared.manifest.users
    for part in parts:
        for feature, rows in (part.events | part.targets).items():
            assert 0 <= rows.min() <= rows.max() < vocabularies.num_rows()[feature]
    sample = np.random.default_rng(0).choice(len(parts[0]), 3, replace=False)
    for user, alone in by_user([parts[0].select(sample, None, trim=False)]).items():
        slow = [(alone.event_time < moment).sum() for moment in alone.impression_time]
        assert alone.num_earlier.tolist() == slow, user
