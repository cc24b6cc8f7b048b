"""Assignment of impressions and events to training, validation and test."""

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


def rank_of(fraction: float, count: int) -> int:
    """Return how many of `count` elements come before the last `fraction` of them.

    >>> rank_of(0.1 + 0.1, 10)
    8
    """
    return int(np.ceil((1 - fraction) * count - 1e-9))


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

    By position, an impression is at num_earlier / num_events of its user's history, so that events with the same
    timestamp are in the same split. Impressions of a user without events are for training.
    """
    lengths = np.diff(offsets)
    if isinstance(split, SplitByPosition):

        def start_of(fraction: float) -> Ids:
            # 1e-9 because (1 - 0.1 - 0.1) * 10 is slightly above 8 in floating point; a fraction of 0 never starts.
            bound = np.ceil((1 - fraction) * num_events - 1e-9).astype(np.int64)
            return np.repeat(np.where((num_events > 0) & (fraction > 0), bound, NEVER), lengths)

        starts = start_of(split.validation + split.test), start_of(split.test)
        result = (num_earlier >= starts[0]).astype(np.int8)
        result[num_earlier >= starts[1]] = TEST
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
    """Check that splits can be trained and tested on; return warnings.

    `counts[s, l]` is the number of impressions of split s with label l.

    Raises:
        DataError: no impressions for training, or all labels of the training or test split are equal.
    """
    warnings = []
    for split, name in enumerate(SPLITS):
        total = counts[split].sum()
        if total == 0:
            if split == TRAIN:
                raise DataError(f"{where}: no impression falls in the train split; make validation and test smaller")
            warnings.append(f"{where}: no impression falls in the {name} split; it cannot be evaluated")
        elif labelled and 0 in counts[split]:
            label = int(np.argmax(counts[split]))
            line = f"{where}: all {total:,} labels of the {name} split are {label}; AUC needs both 0 and 1"
            if split == VALIDATION:
                warnings.append(line)
            else:
                raise DataError(f"{line}: check impressions.column and threshold, or split differently")
    return warnings
