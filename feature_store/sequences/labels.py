"""Sampled negatives for next-event impressions."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.data_config import DataConfig, NextEvent
from feature_store.errors import DataError
from feature_store.hashing import Hashes, mix, stable_hash
from feature_store.ragged import Ids, owners
from feature_store.vocabulary.vocabularies import Vocabularies


def draws(seed: int, users: pa.Array, offsets: Ids, per_event: int) -> Hashes:
    """Draw `per_event` random 64-bit numbers for each element of each user, [elements, per_event].

    A number depends on the seed, the user's id and the element's position in the user's row alone, so that it is the
    same for any buckets, batches and other users.
    """
    position = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))).astype(np.uint64)
    of_user = mix(stable_hash(users) + mix(np.array([seed + 1], np.int64).view(np.uint64)))
    key = mix(of_user[owners(offsets)] + position)
    return mix(key[:, None] + np.arange(1, per_event + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def draw_negatives(random: Hashes, positive: Ids, counts: Ids) -> Ids:
    """Sample items with probabilities proportional to their counts, never the positive: [positives, k] indices.

    The positive's interval is cut out of the cumulative counts, so that no rejected draw has to be repeated. `positive`
    [positives] is an index into `counts` [items], or -1 for an item that is not among them.
    """
    ends = np.cumsum(counts)
    weight = np.where(positive >= 0, counts[positive], 0)[:, None]
    start = np.where(positive >= 0, ends[positive], 0)[:, None] - weight
    total = ends[-1] - weight
    point = (random % total.astype(np.uint64)).astype(np.int64)
    point += np.where((weight > 0) & (point >= start), weight, 0)
    return np.asarray(np.searchsorted(ends, point, side="right"), np.int64)


def sampling_counts(vocabularies: Vocabularies, impressions: NextEvent) -> Ids:
    """Return the sampling weights of the training items [items]; raises DataError if there are fewer than two."""
    counts = vocabularies.item_counts
    if len(counts) < 2:
        raise DataError(
            f"the training split has {len(counts)} distinct items, but next_event needs at least 2 to "
            "draw negatives; make the training split larger, or use a label column"
        )
    return counts if impressions.sampling == "popularity" else np.ones_like(counts)


def with_negatives(
    users: pa.Array, offsets: Ids, items: pa.Array, vocabularies: Vocabularies, config: DataConfig
) -> tuple[Ids, pa.Array, Ids, NDArray[np.float32]]:
    """Sample k negatives for each positive, and return both, each positive before its negatives.

    `items` [I] are the positives, in user order. Returns four arrays [I * (1 + k)]: row of the positive, item id, index
    in the vocabularies' item table (-1 where unknown), label.
    """
    assert isinstance(config.impressions, NextEvent)
    k = config.impressions.negatives
    counts = sampling_counts(vocabularies, config.impressions)
    positive = vocabularies.item_index(items)
    negatives = draw_negatives(draws(config.seed, users, offsets, k), positive, counts)
    index = np.concatenate([positive[:, None], negatives], axis=1).ravel()
    label = np.zeros((len(positive), 1 + k), np.float32)
    label[:, 0] = 1
    return (
        np.repeat(np.arange(len(positive)), 1 + k),
        _item_ids(items, index, 1 + k, vocabularies),
        index,
        label.ravel(),
    )


def _item_ids(positives: pa.Array, index: Ids, group: int, vocabularies: Vocabularies) -> pa.Array:
    """Return the items' ids; a positive has the id that the log gives it, known or not."""
    known = vocabularies.item_ids
    source = index.copy()
    source[::group] = len(known) + np.arange(len(positives))
    return pa.concat_arrays([known, positives.cast(known.type)]).take(pa.array(source))
