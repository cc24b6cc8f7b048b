"""Per-user sequences: what training, evaluation and memory building read."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class UserSequences:
    """Some users, each with its events in time order and its impressions; all ids are embedding rows.

    `events[f]` is int64 [E] for every feature of an event (the item is one of them), in user order; user u owns
    `event_offsets[u]:event_offsets[u + 1]`. Impressions lie alike. `num_earlier[i]` is how many of the user's events
    are strictly before the impression's time: they are its history, and no other event is.
    """

    users: pa.Array  # [U] the log's own ids
    event_offsets: Ids  # [U + 1]
    event_time: Ids  # [E]
    events: dict[str, Ids]  # feature -> [E]
    impression_offsets: Ids  # [U + 1]
    impression_time: Ids  # [I]
    num_earlier: Ids  # [I]
    split: NDArray[np.int8]  # [I] index into schema.SPLITS
    label: NDArray[np.float32]  # [I] 0 or 1
    item: pa.Array  # [I] the log's own item ids
    targets: dict[str, Ids]  # feature -> [I]
    context: dict[str, Ids]  # feature -> [I]
    context_dense: NDArray[np.float32]  # [I, number of dense context columns]
    carried: dict[str, NDArray[np.float64]]  # column -> [I] for analysis only
