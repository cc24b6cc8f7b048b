"""Users' events and impressions as embedding rows, which training and evaluation read."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.data_config import ITEM, DataConfig, NextEvent, carry_column, dense_column, feature_column
from feature_store.logs.prepared_log import PreparedLog
from feature_store.logs.splits import TRAIN
from feature_store.logs.timelines import read_timeline
from feature_store.ragged import Ids, offsets_of, ranges
from feature_store.sequences.labels import draw_negatives, draws, sampling_counts, with_negatives
from feature_store.vocabulary.vocabularies import Vocabularies
from feature_store.vocabulary.vocabulary import canonical


@dataclass(frozen=True, kw_only=True)
class UserSequences:
    """Events of some users, in time order, and their impressions; ids are embedding rows.

    `events[f]` is int64 [E] for every feature f of an event, one of which is the item, in user order; the events of
    user u have the indices `event_offsets[u]:event_offsets[u + 1]`; likewise impressions. `num_earlier[i]` is the
    number of the user's events strictly before the time of impression i: these events, and no others, are its history.
    """

    users: pa.Array  # [U] the log's own ids
    event_offsets: Ids  # [U + 1]
    event_time: Ids  # [E]
    events: dict[str, Ids]  # feature -> [E]
    impression_offsets: Ids  # [U + 1]
    impression_time: Ids  # [I]
    num_earlier: Ids  # [I]
    split: NDArray[np.int8]  # [I] index into data_config.SPLITS
    label: NDArray[np.float32]  # [I] 0 or 1
    item: pa.Array  # [I] the log's own item ids
    targets: dict[str, Ids]  # feature -> [I]
    context: dict[str, Ids]  # feature -> [I]
    context_dense: NDArray[np.float32]  # [I, number of dense context columns]
    carried: dict[str, NDArray[np.float64]]  # column -> [I] copied to predictions

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.users)

    def select(self, users: Ids, split: int | None, *, trim: bool = True) -> "UserSequences":
        """Select users, in the given order, and the impressions of one split (None: all).

        Events that are in no selected impression's history are dropped, unless `trim` is False.
        """
        users = np.asarray(users, np.int64)
        first, last = self.impression_offsets[users], self.impression_offsets[users + 1]
        impressions = ranges(first, last - first)
        owner = np.repeat(np.arange(len(users)), last - first)
        if split is not None:
            mask = self.split[impressions] == split
            impressions, owner = impressions[mask], owner[mask]
        start = self.event_offsets[users]
        length = self.event_offsets[users + 1] - start
        if trim:
            needed = np.zeros(len(users), np.int64)
            np.maximum.at(needed, owner, self.num_earlier[impressions])
            length = np.minimum(length, needed)
        events = ranges(start, length)
        return UserSequences(
            users=self.users.take(pa.array(users)),
            event_offsets=offsets_of(length),
            event_time=self.event_time[events],
            events={name: rows[events] for name, rows in self.events.items()},
            impression_offsets=offsets_of(np.bincount(owner, minlength=len(users))),
            impression_time=self.impression_time[impressions],
            num_earlier=self.num_earlier[impressions],
            split=self.split[impressions],
            label=self.label[impressions],
            item=self.item.take(pa.array(impressions)),
            targets={name: rows[impressions] for name, rows in self.targets.items()},
            context={name: rows[impressions] for name, rows in self.context.items()},
            context_dense=self.context_dense[impressions],
            carried={name: values[impressions] for name, values in self.carried.items()},
        )


def load_sequences(
    prepared: PreparedLog,
    bucket: int,
    vocabularies: Vocabularies,
    config: DataConfig,
    drawn_from: Vocabularies | None = None,
) -> UserSequences:
    """Read one bucket of a prepared log as sequences; users with impressions alone have no events.

    Negatives are sampled from the items of `drawn_from`, where given, so that two models with different vocabularies
    can be evaluated on the same negatives.
    """
    timeline = read_timeline(prepared, bucket)
    columns = config.columns
    table = prepared.events(bucket, [ITEM, *map(feature_column, columns.event_features + columns.item_features)])
    encode = {name: vocabulary.encode for name, vocabulary in vocabularies.features.items()}
    events = {ITEM: encode[ITEM](table[ITEM])}
    for name in columns.event_features + columns.item_features:
        events[name] = encode[name](table[feature_column(name)])
    impressions = config.impressions
    if isinstance(impressions, NextEvent):
        positives = canonical(table[ITEM])
        source = vocabularies if drawn_from is None else drawn_from
        row, item, index, label = with_negatives(timeline.users, timeline.event_offsets, positives, source, config)
        offsets = timeline.impression_offsets * (1 + impressions.negatives)
        targets = vocabularies.targets(item, index if drawn_from is None else None)
        context, dense, carried = {}, np.zeros((len(row), 0), np.float32), {}
    else:
        assert timeline.label is not None
        stored = [ITEM, *map(feature_column, impressions.context_features)]
        stored += [*map(dense_column, impressions.context_dense), *map(carry_column, impressions.carry)]
        shown = prepared.impressions(bucket, list(dict.fromkeys(stored)))
        row, offsets, label = np.arange(shown.num_rows), timeline.impression_offsets, timeline.label
        item = canonical(shown[ITEM])
        targets = vocabularies.targets(item)
        context = {name: encode[name](shown[feature_column(name)]) for name in impressions.context_features}
        dense = np.zeros((len(row), len(impressions.context_dense)), np.float32)
        for column, name in enumerate(impressions.context_dense):
            dense[:, column] = shown[dense_column(name)].to_numpy()
        carried = {name: shown[carry_column(name)].to_numpy().astype(np.float64) for name in impressions.carry}
    return UserSequences(
        users=timeline.users,
        event_offsets=timeline.event_offsets,
        event_time=timeline.event_time.astype(np.int64),
        events=events,
        impression_offsets=offsets,
        impression_time=timeline.impression_time[row],
        num_earlier=timeline.num_earlier[row],
        split=timeline.impression_split[row],
        label=label,
        item=item,
        targets=targets,
        context=context,
        context_dense=dense,
        carried=carried,
    )


def resample_negatives(
    sequences: UserSequences, vocabularies: Vocabularies, config: DataConfig, seed: int
) -> UserSequences:
    """Sample new negatives for the training split; those of validation and test are left as sampled with `config.seed`.

    A sample depends on the seed, the user and the impression's position among the user's impressions here. Sequences
    with labels are returned unchanged.
    """
    if not isinstance(config.impressions, NextEvent) or not len(sequences.label):
        return sequences
    group = 1 + config.impressions.negatives
    counts = sampling_counts(vocabularies, config.impressions)
    positives = sequences.item.take(pa.array(np.arange(0, len(sequences.item), group)))
    random = draws(seed, sequences.users, sequences.impression_offsets // group, group - 1)
    positive = vocabularies.item_index(positives)
    sampled = np.concatenate([positive[:, None], draw_negatives(random, positive, counts)], axis=1).ravel()
    replaced = np.flatnonzero((sequences.split == TRAIN) & (sequences.label == 0))
    new_targets = vocabularies.targets(vocabularies.item_ids, sampled[replaced])
    targets = {name: rows.copy() for name, rows in sequences.targets.items()}
    for name, rows in targets.items():
        rows[replaced] = new_targets[name]
    source = np.arange(len(sequences.item))
    source[replaced] = len(source) + sampled[replaced]
    item = pa.concat_arrays([sequences.item, vocabularies.item_ids]).take(pa.array(source))
    return replace(sequences, targets=targets, item=item)
