"""Users' events as a memory is built from them: a bucket of a prepared log, ids as embedding rows, no impressions."""

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
    """Some users with their events, each user's in time order; user u owns `offsets[u]:offsets[u + 1]`."""

    users: pa.Array  # [U] the log's own ids
    offsets: Ids  # [U + 1]
    time: Ids  # [E]
    features: dict[str, Ids]  # feature -> [E] embedding rows
    table: pa.Table  # [E] the events as the prepared log has them

    @property
    def lengths(self) -> Ids:
        """The number of each user's events [U]."""
        return np.diff(self.offsets)

    def of_users(self, users: Ids) -> "UserEvents":
        """Keep these users, in this order."""
        lengths = self.lengths[users]
        kept = ranges(self.offsets[users], lengths)
        return self._taken(self.users.take(pa.array(users)), lengths, kept)

    def where(self, mask: NDArray[np.bool_]) -> "UserEvents":
        """Keep these events [E] and all users, also those who have none left."""
        counts = np.bincount(owners(self.offsets)[mask], minlength=len(self.users))
        return self._taken(self.users, counts, np.flatnonzero(mask))

    def of_each_event(self, values: Ids) -> Ids:
        """Repeat a value of each user [U] for its events [E]."""
        return np.repeat(values, self.lengths)

    def _taken(self, users: pa.Array, lengths: Ids, events: Ids) -> "UserEvents":
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
    """Read one bucket's events; `vocabularies` are by feature, the item's own id among them."""
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
