"""Users, times, labels and splits of each bucket of a prepared log, computed once and stored beside it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_store.data_config import LABEL, TIME, USER
from feature_store.logs.bucketing import write_compact
from feature_store.logs.prepared_log import EVENT_SPLITS, IMPRESSION_SPLITS, TIMELINE_USERS, PreparedLog
from feature_store.logs.splits import Splits, assign_splits
from feature_store.ragged import Ids, count_earlier, count_earlier_in_row, offsets_of, runs

_NUM_EVENTS, _NUM_IMPRESSIONS, _NUM_EARLIER, _SPLIT = "events", "impressions", "num_earlier", "split"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The users, times, labels and splits of one bucket: everything but the features.

    Event i is row i of `PreparedLog.events`, impression i row i of `PreparedLog.impressions` (of `events`, where each
    event is an impression).
    """

    users: pa.Array  # [U] sorted
    event_offsets: Ids  # [U + 1]
    event_time: Ids  # [E]
    event_split: Splits  # [E] vocabularies are fitted on TRAIN events alone
    impression_offsets: Ids  # [U + 1]
    impression_time: Ids  # [I]
    num_earlier: Ids  # [I]
    impression_split: Splits  # [I]
    label: NDArray[np.float32] | None  # [I], None where the next event is the positive


def write_timeline(prepared: PreparedLog, bucket: int) -> Timeline:
    """Count each impression's earlier events, assign splits, and write both beside the bucket's file."""
    timeline = _compute_timeline(prepared, bucket)
    lengths = {
        USER: timeline.users,
        _NUM_EVENTS: np.diff(timeline.event_offsets),
        _NUM_IMPRESSIONS: np.diff(timeline.impression_offsets),
    }
    write_compact(pa.table(lengths), prepared.file(TIMELINE_USERS, bucket), increasing=())
    impressions = {_NUM_EARLIER: timeline.num_earlier, _SPLIT: timeline.impression_split}
    write_compact(pa.table(impressions), prepared.file(IMPRESSION_SPLITS, bucket), increasing=(_NUM_EARLIER,))
    if prepared.has_impressions:
        split = pa.table({_SPLIT: timeline.event_split})
        write_compact(split, prepared.file(EVENT_SPLITS, bucket), increasing=())
    return timeline


def read_timeline(prepared: PreparedLog, bucket: int) -> Timeline:
    """Read one bucket's users, times, labels, splits, and number of events before each impression."""
    lengths = pq.read_table(prepared.file(TIMELINE_USERS, bucket), partitioning=None)
    positions = pq.read_table(prepared.file(IMPRESSION_SPLITS, bucket), partitioning=None)
    own_file = prepared.has_impressions
    labelled = LABEL in prepared.impression_columns
    impressions = prepared.impressions(bucket, [TIME] + [LABEL] * labelled)
    impression_split = positions[_SPLIT].to_numpy()
    users = lengths[USER]
    return Timeline(
        users=pa.concat_arrays(users.chunks) if users.num_chunks else pa.array([], users.type),
        event_offsets=offsets_of(lengths[_NUM_EVENTS].to_numpy()),
        event_time=(prepared.events(bucket, [TIME]) if own_file else impressions)[TIME].to_numpy(),
        event_split=read_event_split(prepared, bucket) if own_file else impression_split,
        impression_offsets=offsets_of(lengths[_NUM_IMPRESSIONS].to_numpy()),
        impression_time=impressions[TIME].to_numpy(),
        num_earlier=positions[_NUM_EARLIER].to_numpy(),
        impression_split=impression_split,
        label=impressions[LABEL].to_numpy().astype(np.float32) if labelled else None,
    )


def read_event_split(prepared: PreparedLog, bucket: int) -> Splits:
    """Read the split of each event [E] of a bucket: an index into `data_config.SPLITS`."""
    return _read_split(prepared, EVENT_SPLITS if prepared.has_impressions else IMPRESSION_SPLITS, bucket)


def read_impression_split(prepared: PreparedLog, bucket: int) -> Splits:
    """Read the split of each impression [I] of a bucket: an index into `data_config.SPLITS`."""
    return _read_split(prepared, IMPRESSION_SPLITS, bucket)


def _read_split(prepared: PreparedLog, table: str, bucket: int) -> Splits:
    split: Splits = pq.read_table(prepared.file(table, bucket), columns=[_SPLIT], partitioning=None)[_SPLIT].to_numpy()
    return split


def _compute_timeline(prepared: PreparedLog, bucket: int) -> Timeline:
    own_file = prepared.has_impressions
    labelled = LABEL in prepared.impression_columns
    events = prepared.events(bucket, [USER, TIME] + [LABEL] * (labelled and not own_file))
    users, event_offsets = runs(events[USER])
    event_time = events[TIME].to_numpy()
    if own_file:
        impressions = prepared.impressions(bucket, [USER, TIME, LABEL])
        shown_users, shown_offsets = runs(impressions[USER])
        all_users = pa.concat_arrays([users, shown_users.cast(users.type)]).unique()
        all_users = all_users.take(pc.array_sort_indices(all_users))
        event_offsets = _with_empty_rows(users, event_offsets, all_users)
        impression_offsets = _with_empty_rows(shown_users, shown_offsets, all_users)
        users, time = all_users, impressions[TIME].to_numpy()
        num_earlier = count_earlier(event_time, event_offsets, time, impression_offsets)
    else:
        impressions, impression_offsets, time = events, event_offsets, event_time
        num_earlier = count_earlier_in_row(event_time, event_offsets)
    num_events = np.diff(event_offsets)

    def assign(offsets: Ids, time: Ids, num_earlier: Ids) -> Splits:
        return assign_splits(
            prepared.manifest.config.split,
            users=users,
            offsets=offsets,
            time=time,
            num_earlier=num_earlier,
            num_events=num_events,
            moments=prepared.manifest.moments,
        )

    impression_split = assign(impression_offsets, time, num_earlier)
    event_split = impression_split
    if own_file:
        event_split = assign(event_offsets, event_time, count_earlier_in_row(event_time, event_offsets))
    return Timeline(
        users=users,
        event_offsets=event_offsets,
        event_time=event_time,
        event_split=event_split,
        impression_offsets=impression_offsets,
        impression_time=time,
        num_earlier=num_earlier,
        impression_split=impression_split,
        label=impressions[LABEL].to_numpy().astype(np.float32) if labelled else None,
    )


def _with_empty_rows(users: pa.Array, offsets: Ids, all_users: pa.Array) -> Ids:
    """Return offsets of all users, with an empty row for those who are not in `users`."""
    lengths = np.zeros(len(all_users), np.int64)
    lengths[pc.index_in(users, value_set=all_users).to_numpy()] = np.diff(offsets)
    return offsets_of(lengths)
