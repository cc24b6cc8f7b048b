"""Users' events for building memories: one bucket of a prepared log, ids as embedding rows, no impressions."""

from collections.abc import Mapping
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
    table: pa.Table  # [E] the events as in the prepared log

    @property
    def lengths(self) -> Ids:
        """The number of events of each user [U]."""
        return np.diff(self.offsets)

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
            table=self.table.take(pa.array(events)),
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
        table=table,
    )
