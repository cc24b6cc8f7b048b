"""The vocabulary of one feature: frequent ids have embedding rows of their own, all others share rows by a hash."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.errors import DataError
from feature_store.hashing import stable_hash
from feature_store.ragged import Ids
from feature_store.vocabulary.id_index import IdIndex

_WHOLE_BELOW = 9e15  # as in row_checks


def canonical(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Cast ids to one of the two types in a prepared log, int64 and string; floats become text as in `prepare`.

    >>> canonical(pa.array([1.0, 2.5, 3e10, None])).to_pylist()
    ['1', '2.5', '30000000000', None]
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = pa.concat_arrays([canonical(chunk) for chunk in ids.chunks]) if ids.num_chunks else pa.array([], ids.type)
    kind = ids.type
    if pa.types.is_dictionary(kind):
        return canonical(ids.dictionary_decode())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        # Prepared logs have no ids beyond int64; wrapped around, such an id is most likely an unknown one.
        return ids.cast(pa.int64(), safe=False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        encoded = ids.cast(pa.float64()).dictionary_encode()
        texts = pa.array(map(_number_as_text, encoded.dictionary.to_pylist()), pa.string())
        return texts.take(encoded.indices)
    return ids.cast(pa.string())


def _number_as_text(number: float) -> str | None:
    """Format a number as the SQL of `row_checks` does, from which both Arrow's and Python's format differ."""
    if math.isnan(number):
        return None
    return str(int(number)) if abs(number) < _WHOLE_BELOW and number == math.floor(number) else repr(number)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The embedding rows of one feature: `oov_rows` rows shared by hash, then one row for each known id."""

    ids: pa.Array  # int64 or string, most frequent first; null is an id like any other
    oov_rows: int

    @classmethod
    def from_counts(cls, ids: pa.Array, counts: Ids, *, min_count: int, max_rows: int, oov_rows: int) -> "Vocabulary":
        """Keep the ids seen at least `min_count` times, at most `max_rows`, by decreasing frequency, ties by id.

        >>> sizes = {"min_count": 2, "max_rows": 9, "oov_rows": 1}
        >>> Vocabulary.from_counts(pa.array([7, 5, 9]), np.array([2, 2, 1]), **sizes).ids.to_pylist()
        [5, 7]
        """
        table = pa.table({"id": ids, "count": counts})
        order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("id", "ascending")])
        order = order.filter(pc.greater_equal(table["count"].take(order), min_count)).slice(0, max_rows)
        return cls(canonical(ids.take(_flat(order))), oov_rows)

    @cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.ids)

    @property
    def num_rows(self) -> int:
        """Number of rows of the embedding table."""
        return self.oov_rows + len(self.ids)

    def typed(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Cast ids to the vocabulary's type.

        Raises:
            DataError: ids are integers and the vocabulary has strings, or the reverse; all would be unknown.
        """
        ids = canonical(ids)
        if ids.type == self.ids.type:
            return ids
        if ids.null_count == len(ids):
            return pa.nulls(len(ids), self.ids.type)
        raise DataError(f"ids are {ids.type}, but the vocabulary has {self.ids.type}; cast the column")

    def encode(self, ids: pa.Array | pa.ChunkedArray) -> Ids:
        """Map ids to embedding rows, int64 [ids]; an id without a row of its own gets an out-of-vocabulary row."""
        ids = self.typed(ids)
        rows = self._index.find(ids)
        unknown = np.flatnonzero(rows < 0)
        rows += self.oov_rows
        if len(unknown):
            rows[unknown] = (stable_hash(ids.take(pa.array(unknown))) % np.uint64(self.oov_rows)).astype(np.int64)
        return rows


def _flat(column: Any) -> pa.Array:
    """Combine the chunks of a column."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
