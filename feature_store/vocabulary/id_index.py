"""An index of ids for repeated look-ups, used by vocabularies and the item table."""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.hashing import stable_hash
from feature_store.ragged import Ids

# Integer ids take a table with a place for each number between the least and the largest, if few places are empty.
_PLACES_PER_ID = 4
# Arrow hashes all known ids at each call, so that for few values a binary search among sorted ids is much faster.
_KNOWN_PER_VALUE = 16


class IdIndex:
    """Maps known ids, which all differ, to their indices.

    >>> IdIndex(pa.array(["b", "a"])).find(pa.array(["a", "c", "b"])).tolist()
    [1, -1, 0]
    """

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids

    def find(self, values: pa.Array) -> Ids:
        """Return each value's index among the ids [values], -1 where it is unknown; both must have the same type."""
        if self._table is not None and not values.null_count:
            return self._look_up(values.to_numpy())
        if len(values) * _KNOWN_PER_VALUE > len(self._ids) or values.null_count or not self._can_be_searched:
            index = pc.fill_null(pc.index_in(values, value_set=self._ids), -1)
            return np.asarray(index.to_numpy(zero_copy_only=False), np.int64)
        keys, order = self._sorted
        index = order[np.minimum(np.searchsorted(keys, self._keys(values)), len(keys) - 1)]
        same = pc.equal(self._ids.take(pa.array(index)), values).to_numpy(zero_copy_only=False)
        return np.where(same, index, -1)

    @cached_property
    def _table(self) -> tuple[int, Ids] | None:
        """The least id, and the index of each number from it on, -1 if unknown; None if that would be too large."""
        if not pa.types.is_integer(self._ids.type) or self._ids.null_count or not len(self._ids):
            return None
        ids = self._ids.to_numpy()
        least, size = int(ids.min()), int(ids.max()) - int(ids.min()) + 1
        if size > _PLACES_PER_ID * len(ids):
            return None
        table = np.full(size, -1, np.int64)
        table[ids - least] = np.arange(len(ids))
        return least, table

    def _look_up(self, values: Ids) -> Ids:
        assert self._table is not None
        least, table = self._table
        known = (values >= least) & (values < least + len(table))
        if known.all():
            return np.asarray(table[values - least])
        return np.where(known, table[np.where(known, values - least, 0)], -1)

    @cached_property
    def _sorted(self) -> tuple[Ids | np.ndarray, Ids]:
        known = np.flatnonzero(self._ids.is_valid().to_numpy(zero_copy_only=False))
        keys = self._keys(self._ids.take(pa.array(known)))
        order = np.argsort(keys, kind="stable")
        return keys[order], known[order]

    @cached_property
    def _can_be_searched(self) -> bool:
        """Whether all keys differ; of two texts with the same hash only one would be found."""
        keys, _ = self._sorted
        return len(keys) > 0 and bool((keys[1:] != keys[:-1]).all())

    def _keys(self, ids: pa.Array) -> Ids | np.ndarray:
        return ids.to_numpy() if pa.types.is_integer(ids.type) else stable_hash(ids)
