"""Users' events for building memories: one bucket of a prepared log, ids as embedding rows, no impressions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.data_config import ITEM, TIME, USER, Columns, feature_column
from feature_store.logs.prepared_log import PreparedLog
from feature_store.ragged import Ids, offsets_of, owners, ranges, runs
from feature_store.vocabulary.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class UserEvents:
    """Events of some users in time order; those of user u have the indices `offsets[u]:offsets[u + 1]`."""

    users: pa.Array  # [U] the log's own ids
    offsets: Ids  # [U + 1]
    time: Ids  # [E]
    features: dict[str, Ids]  # feature -> [E] embedding rows
    bucket_table: pa.Table  # all events of their bucket as in the prepared log
    rows: Ids  # [E] each event's row in it

    @property
    def lengths(self) -> Ids:
        """The number of events of each user [U]."""
        return np.diff(self.offsets)

    @property
    def table(self) -> pa.Table:
        """The events [E] as in the prepared log."""
        return self.bucket_table.take(pa.array(self.rows))

    @classmethod
    def concat(cls, parts: Sequence["UserEvents"]) -> "UserEvents":
        """Concatenate one or more parts of one bucket, which have different users."""
        first = parts[0]
        if len(parts) == 1:
            return first
        assert all(part.bucket_table is first.bucket_table for part in parts)
        return cls(
            users=pa.concat_arrays([part.users for part in parts]),
            offsets=offsets_of(np.concatenate([part.lengths for part in parts])),
            time=np.concatenate([part.time for part in parts]),
            features={name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
            bucket_table=first.bucket_table,
            rows=np.concatenate([part.rows for part in parts]),
        )

    def of_users(self, users: Ids) -> "UserEvents":
        """Select users, in the given order."""
        lengths = self.lengths[users]
        events = ranges(self.offsets[users], lengths)
        return self._subset(self.users.take(pa.array(users)), lengths, events)

    def where(self, mask: NDArray[np.bool_]) -> "UserEvents":
        """Select events by a mask [E]; users without any left are kept."""
        counts = np.bincount(owners(self.offsets)[mask], minlength=len(self.users))
        return self._subset(self.users, counts, np.flatnonzero(mask))

    def of_each_event(self, values: Ids) -> Ids:
        """Repeat each user's value [U] for all of its events [E]."""
        return np.repeat(values, self.lengths)

    def _subset(self, users: pa.Array, lengths: Ids, events: Ids) -> "UserEvents":
        return UserEvents(
            users=users,
            offsets=offsets_of(lengths),
            time=self.time[events],
            features={name: rows[events] for name, rows in self.features.items()},
            bucket_table=self.bucket_table,
            rows=self.rows[events],
        )


def read_user_events(
    prepared: PreparedLog, bucket: int, vocabularies: Mapping[str, Vocabulary], columns: Columns
) -> UserEvents:
    """Read one bucket's events; `vocabularies` has one for each feature, and one for the item id ("item")."""
    stored = {ITEM: ITEM} | {name: feature_column(name) for name in columns.event_features + columns.item_features}
    table = prepared.events(bucket, [USER, TIME, *stored.values()])
    users, offsets = runs(table[USER])
    return UserEvents(
        users=users,
        offsets=offsets,
        time=table[TIME].to_numpy().astype(np.int64),
        features={name: vocabularies[name].encode(table[column]) for name, column in stored.items()},
        bucket_table=table,
        rows=np.arange(len(table)),
    )
