"""The age of a user's last event on the item of an impression."""

import numpy as np
import pyarrow as pa

from feature_store.data_config import ITEM
from feature_store.logs.prepared_log import PreparedLog
from feature_store.ragged import Ids, last_equal, owners
from feature_store.sequences.user_sequences import UserSequences
from feature_store.vocabulary.vocabulary import canonical


def events_since_item(prepared: PreparedLog, bucket: int, sequences: UserSequences, impressions: Ids) -> Ids:
    """Return how many events ago the user's last event on the item of each impression was; 1: the last event, 0: never.

    `sequences` has all users of the bucket. Items are compared by the log's own ids, since several ids can share a row.
    """
    event_items = canonical(prepared.events(bucket, [ITEM])[ITEM])
    shown = sequences.item.take(pa.array(impressions))
    codes = (
        pa.concat_arrays([event_items.cast(shown.type), shown])
        .dictionary_encode(null_encoding="encode")
        .indices.to_numpy()
    )
    num_earlier = sequences.num_earlier[impressions]
    position = last_equal(
        codes[: len(event_items)].astype(np.int64),
        sequences.event_offsets,
        codes[len(event_items) :].astype(np.int64),
        owners(sequences.impression_offsets)[impressions],
        num_earlier,
    )
    return np.where(position >= 0, num_earlier - position, 0)
