"""Which impressions train, validate and test, and which events training may learn from: no split sees a later one."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.data_config import SPLITS, Split, SplitByPosition, SplitByTime, SplitByUser
from feature_store.errors import DataError
from feature_store.hashing import mix, stable_hash, unit_interval
from feature_store.logs.prepared_log import TimeMoments
from feature_store.ragged import Ids

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
    """Assign each of [I] impressions (or events) of [U] users to a split: an index into `data_config.SPLITS`.

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
