"""How long ago a user last met the item of an impression."""

import numpy as np
import pyarrow as pa

from feature_store.data_config import ITEM
from feature_store.logs.prepared_log import PreparedLog
from feature_store.ragged import Ids, last_equal, owners
from feature_store.sequences.user_sequences import UserSequences
from feature_store.vocabulary.vocabulary import canonical


def events_since_item(prepared: PreparedLog, bucket: int, sequences: UserSequences, impressions: Ids) -> Ids:
    """Count how many events ago the user last met the item of each of these impressions; 1: the one before, 0: never.

    `sequences` are the whole bucket's. Items are told apart by the log's own ids, of which several share a row.
    """
    met = canonical(prepared.events(bucket, [ITEM])[ITEM])
    shown = sequences.item.take(pa.array(impressions))
    codes = pa.concat_arrays([met.cast(shown.type), shown]).dictionary_encode(null_encoding="encode").indices.to_numpy()
    num_earlier = sequences.num_earlier[impressions]
    place = last_equal(
        codes[: len(met)].astype(np.int64),
        sequences.event_offsets,
        codes[len(met) :].astype(np.int64),
        owners(sequences.impression_offsets)[impressions],
        num_earlier,
    )
    return np.where(place >= 0, num_earlier - place, 0)
