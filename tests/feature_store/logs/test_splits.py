from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.data_config import DataConfig, ImpressionFile, LabelColumn, SplitByPosition, SplitByTime, SplitByUser
from feature_store.logs.prepared_log import TimeMoments
from feature_store.logs.splits import TEST, TRAIN, VALIDATION, assign_splits
from feature_store.ragged import count_earlier_in_row, offsets_of
from tests.feature_store.small_logs import by_user, random_log

Load = Callable[..., Any]


def split_of_times(split: Any, rows: list[list[int]], users: list[int] | None = None, moments: Any = None) -> list[int]:
    offsets = offsets_of(np.array([len(row) for row in rows], int))
    time = np.array([time for row in rows for time in row], np.int64)
    return assign_splits(
        split,
        users=pa.array(users or list(range(len(rows)))),
        offsets=offsets,
        time=time,
        num_earlier=count_earlier_in_row(time, offsets),
        num_events=np.diff(offsets),
        moments=moments,
    ).tolist()


def test_by_position_ten_events_are_eight_one_one() -> None:
    assert split_of_times(SplitByPosition(), [list(range(10))] * 2) == ([TRAIN] * 8 + [VALIDATION, TEST]) * 2


def test_by_position_a_share_of_nothing_gets_nothing() -> None:
    assert split_of_times(SplitByPosition(validation=0, test=0.5), [[1, 2, 3, 4]]) == [0, 0, 2, 2]
    assert split_of_times(SplitByPosition(validation=0.5, test=0), [[1, 2, 3, 4]]) == [0, 0, 1, 1]
    assert split_of_times(SplitByPosition(validation=0, test=0), [[1]]) == [0]


@given(st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=5), st.sampled_from(["position", "time"]))
@settings(deadline=None)
def test_what_shares_a_timestamp_falls_together_and_later_is_never_earlier(rows: list[list[int]], kind: str) -> None:
    rows = [sorted(row) for row in rows]
    split = SplitByPosition(validation=0.3, test=0.2) if kind == "position" else SplitByTime()
    found = iter(split_of_times(split, rows, moments=TimeMoments(validation_from=2, test_from=4)))
    for row in rows:
        of_time: dict[int, set[int]] = {}
        for time in row:
            of_time.setdefault(time, set()).add(next(found))
        assert all(len(splits) == 1 for splits in of_time.values())
        in_order = [min(of_time[time]) for time in sorted(of_time)]
        assert in_order == sorted(in_order)


def test_by_time_moments_are_quantiles_of_all_impressions(write: Any, load: Load) -> None:
    log = random_log(users=30)
    impressions = LabelColumn(column="clicked")
    config = DataConfig(log=write(log), impressions=impressions, split=SplitByTime(), duplicate_rows="keep")
    prepared, _, sequences = load(config.model_copy(update={"events_per_bucket": 200}))
    times = np.sort(log["timestamp"].to_numpy())
    assert prepared.manifest.moments.validation_from == times[960]
    assert prepared.manifest.moments.test_from == times[1080]
    for part in sequences:
        expected = (part.impression_time >= times[960]).astype(int) + (part.impression_time >= times[1080])
        assert part.split.tolist() == expected.tolist()


def test_by_time_given_moments(write: Any, load: Load) -> None:
    split = SplitByTime(validation_from=20, test_from=70)
    config = DataConfig(log=write(random_log()), impressions=LabelColumn(column="clicked"), split=split)
    (sequences,) = load(config)[2]
    assert sequences.impression_time[sequences.split == TEST].min() == 70
    assert sequences.impression_time[sequences.split == VALIDATION].max() == 69
    assert sequences.impression_time[sequences.split == VALIDATION].min() == 20


def test_by_user_whole_users_in_about_the_right_shares_whatever_the_company() -> None:
    split = SplitByUser(validation=0.2, test=0.3)
    found = np.array(split_of_times(split, [[1, 2]] * 4000)).reshape(-1, 2)
    assert (found[:, 0] == found[:, 1]).all()
    assert np.abs(np.bincount(found[:, 0]) / 4000 - [0.5, 0.2, 0.3]).max() < 0.03
    alone = split_of_times(split, [[1]], users=[17])
    assert alone == [found[17, 0]]
    other_seed = split_of_times(split.model_copy(update={"seed": 1}), [[1, 2]] * 4000)
    assert 0.2 < (np.array(other_seed)[::2] != found[:, 0]).mean() < 0.8


def test_by_position_of_a_file_of_impressions(write: Any, load: Load) -> None:
    log = {"user_id": [1] * 10, "item_id": [1, 2] * 5, "timestamp": range(10)}
    shown = {
        "user_id": [1] * 6 + [2],
        "item_id": [1] * 7,
        "timestamp": [0, 5, 8, 9, 9, 50, 3],
        "label": [0, 1] * 3 + [0],
    }
    config = DataConfig(log=write(log), impressions=ImpressionFile(path=write(shown, "shown.parquet")))
    (sequences,) = load(config)[2]
    alone = by_user([sequences])
    assert alone["1"].num_earlier.tolist() == [0, 5, 8, 9, 9, 10]
    assert alone["1"].split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TEST, TEST]
    assert alone["2"].split.tolist() == [TRAIN]  # a user without events


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing to train on"):
        SplitByPosition(validation=0.5, test=0.5)
