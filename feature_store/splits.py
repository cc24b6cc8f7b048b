"""Which impressions train, validate and test, and which events training may learn from: no split sees a later one."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.hashing import mix, stable_hash, unit_interval
from feature_store.prepared_log import PreparedLog, TimeMoments
from feature_store.ragged import Ids, count_earlier, count_earlier_in_row, runs
from feature_store.schema import LABEL, SPLITS, TIME, USER, Split, SplitByPosition, SplitByTime, SplitByUser

TRAIN, VALIDATION, TEST = range(3)
NEVER = np.iinfo(np.int64).max
Splits = NDArray[np.int8]


def rank_of(share: float, count: int) -> int:
    """Count how many of `count` things come before the last `share` of them.

    >>> rank_of(0.1 + 0.1, 10)
    8
    """
    return int(np.ceil((1 - share) * count - 1e-9))


def assign_splits(
    split: Split,
    *,
    users: pa.Array,
    offsets: Ids,
    time: Ids,
    num_earlier: Ids,
    num_events: Ids,
    moments: TimeMoments | None = None,
) -> Splits:
    """Assign each of [I] impressions (or events) of [U] users to a split: an index into `schema.SPLITS`.

    By position, an impression lies at num_earlier / num_events of its user's history: what shares a timestamp falls
    together, and a user without events trains.
    """
    lengths = np.diff(offsets)
    if isinstance(split, SplitByPosition):

        def first(share: float) -> Ids:
            # 1e-9 because (1 - 0.1 - 0.1) * 10 is a little above 8; a share of nothing is never reached.
            bound = np.ceil((1 - share) * num_events - 1e-9).astype(np.int64)
            return np.repeat(np.where((num_events > 0) & (share > 0), bound, NEVER), lengths)

        later = first(split.validation + split.test), first(split.test)
        result = (num_earlier >= later[0]).astype(np.int8)
        result[num_earlier >= later[1]] = TEST
        return result
    if isinstance(split, SplitByTime):
        assert moments is not None
        result = (time >= moments.validation_from).astype(np.int8)
        result[time >= moments.test_from] = TEST
        return result
    assert isinstance(split, SplitByUser)
    with np.errstate(over="ignore"):
        draw = unit_interval(mix(stable_hash(users) ^ mix(np.array([split.seed + 1], np.uint64))))
    of_user = np.where(draw < split.test, TEST, np.where(draw < split.test + split.validation, VALIDATION, TRAIN))
    return np.repeat(of_user.astype(np.int8), lengths)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Who did what when in one bucket, and in which split: everything but the features.

    `impression_row[i]` is the row of `PreparedLog.impressions` (of `events`, where each event is an impression).
    """

    users: pa.Array  # [U] sorted
    event_offsets: Ids  # [U + 1]
    event_time: Ids  # [E]
    event_split: Splits  # [E] training may learn ids, frequencies and item features from TRAIN events alone
    impression_offsets: Ids  # [U + 1]
    impression_time: Ids  # [I]
    num_earlier: Ids  # [I]
    impression_split: Splits  # [I]
    label: NDArray[np.float32] | None  # [I], none where the next event is the positive


def read_timeline(prepared: PreparedLog, bucket: int, split: Split) -> Timeline:
    """Read one bucket's users, times and labels, and assign splits."""
    own_file = prepared.has_impressions
    labelled = LABEL in prepared.impression_columns
    events = prepared.events(bucket, [USER, TIME] + [LABEL] * (labelled and not own_file))
    users, event_offsets = runs(events[USER])
    event_time = events[TIME].to_numpy()
    moments = prepared.manifest.moments
    if own_file:
        impressions = prepared.impressions(bucket, [USER, TIME, LABEL])
        theirs, their_offsets = runs(impressions[USER])
        everyone = pa.concat_arrays([users, theirs.cast(users.type)]).unique()
        everyone = everyone.take(pa.compute.array_sort_indices(everyone))
        event_offsets = _spread(users, event_offsets, everyone)
        impression_offsets = _spread(theirs, their_offsets, everyone)
        users, time = everyone, impressions[TIME].to_numpy()
        num_earlier = count_earlier(event_time, event_offsets, time, impression_offsets)
    else:
        impressions, impression_offsets, time = events, event_offsets, event_time
        num_earlier = count_earlier_in_row(event_time, event_offsets)
    num_events = np.diff(event_offsets)

    def assign(offsets: Ids, time: Ids, num_earlier: Ids) -> Splits:
        return assign_splits(
            split,
            users=users,
            offsets=offsets,
            time=time,
            num_earlier=num_earlier,
            num_events=num_events,
            moments=moments,
        )

    impression_split = assign(impression_offsets, time, num_earlier)
    event_split = impression_split
    if own_file:
        event_split = assign(event_offsets, event_time, count_earlier_in_row(event_time, event_offsets))
    return Timeline(
        users=users,
        event_offsets=event_offsets,
        event_time=event_time,
        event_split=event_split,
        impression_offsets=impression_offsets,
        impression_time=time,
        num_earlier=num_earlier,
        impression_split=impression_split,
        label=impressions[LABEL].to_numpy().astype(np.float32) if labelled else None,
    )


def _spread(users: pa.Array, offsets: Ids, everyone: pa.Array) -> Ids:
    """Give users that are absent an empty row."""
    lengths = np.zeros(len(everyone), np.int64)
    lengths[pa.compute.index_in(users, value_set=everyone).to_numpy()] = np.diff(offsets)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def check_splits(counts: Ids, where: str, labelled: bool) -> list[str]:
    """Refuse splits that cannot be trained or tested on; returns warnings about the rest.

    `counts[s, l]` is the number of impressions of split s with label l.

    Raises:
        DataError: nothing to train on, or labels of one class only in the training or test split.
    """
    warnings = []
    for split, name in enumerate(SPLITS):
        total = counts[split].sum()
        if total == 0:
            if split == TRAIN:
                raise DataError(f"{where}: no impression falls in the train split; give validation and test less")
            warnings.append(f"{where}: no impression falls in the {name} split; it cannot be evaluated on")
        elif labelled and 0 in counts[split]:
            only = int(np.argmax(counts[split]))
            line = f"{where}: all {total:,} labels of the {name} split are {only}; AUC needs both 0 and 1"
            if split == VALIDATION:
                warnings.append(line)
            else:
                raise DataError(f"{line}: check impressions.column and threshold, or split differently")
    return warnings
