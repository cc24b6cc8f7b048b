"""The vocabularies of all features, and the table of items with their features, from training events alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.data_config import ITEM, DataConfig, LabelColumn, NextEvent, VocabularySizes, feature_column
from feature_store.errors import DataError
from feature_store.logs.prepared_log import PreparedLog
from feature_store.logs.splits import TRAIN
from feature_store.logs.timelines import read_event_split, read_impression_split
from feature_store.ragged import Ids
from feature_store.vocabulary.id_index import IdIndex
from feature_store.vocabulary.vocabulary import Vocabulary

FORMAT_VERSION = 1
COUNT, INDEX = "count", "vocabularies.json"


def _count(table: pa.Table, keys: tuple[str, ...], so_far: pa.Table | None = None) -> pa.Table:
    """Count the distinct combinations of columns, and add them to an earlier count."""
    counts = table.select(list(keys)).group_by(list(keys)).aggregate([([], "count_all")])
    counts = counts.rename_columns([*keys, COUNT])
    return counts if so_far is None else _sum(pa.concat_tables([so_far, counts]), keys)


def _sum(counts: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    return counts.group_by(list(keys)).aggregate([(COUNT, "sum")]).rename_columns([*keys, COUNT])


def _vocabulary(counts: pa.Table, key: str, sizes: VocabularySizes) -> Vocabulary:
    return Vocabulary.from_counts(
        pa.concat_arrays(counts[key].chunks) if counts[key].num_chunks else pa.array([], counts[key].type),
        counts[COUNT].to_numpy(),
        **sizes.model_dump(),
    )


@dataclass(frozen=True, eq=False)
class Vocabularies:
    """Vocabularies by feature, and the item table: each training item with its count and the mode of its features."""

    features: Mapping[str, Vocabulary]  # "item" is the item's own id
    item_features: tuple[str, ...]
    items: pa.Table  # item, count, feature:…; by decreasing count, ties by id

    @classmethod
    def fit(cls, prepared: PreparedLog, config: DataConfig) -> "Vocabularies":
        """Count ids over the training events, bucket by bucket; memory use grows with distinct ids, not with events.

        Impressions in files of their own are counted too: items and context of those in the training split, so that an
        item that was shown without an event has a row.
        """
        columns = config.columns
        context = () if isinstance(config.impressions, NextEvent) else config.impressions.context_features
        alone = [ITEM, *map(feature_column, columns.event_features)]
        if isinstance(config.impressions, LabelColumn):  # the events are the impressions: count each once
            known = columns.event_features + columns.item_features
            alone += [feature_column(name) for name in context if name not in known]
        pairs = [(ITEM, feature_column(name)) for name in columns.item_features]
        events_keys = [*((name,) for name in alone), *pairs]
        shown_keys = [(name,) for name in (ITEM, *map(feature_column, context))] if prepared.has_impressions else []
        counts: dict[tuple[str, ...], pa.Table] = {}
        for bucket in prepared.buckets():
            columns_read = list(dict.fromkeys(name for key in events_keys for name in key))
            events = prepared.events(bucket, columns_read).filter(pa.array(read_event_split(prepared, bucket) == TRAIN))
            for key in events_keys:
                counts[key] = _count(events, key, counts.get(key))
            if shown_keys:
                shown = prepared.impressions(bucket, [name for (name,) in shown_keys])
                shown = shown.filter(pa.array(read_impression_split(prepared, bucket) == TRAIN))
                for key in shown_keys:
                    counts[key] = _count(shown, key, counts.get(key))
        for pair in pairs:
            parts = [_sum(counts[pair], pair[1:]), *([counts[pair[1:]]] if pair[1:] in counts else [])]
            counts[pair[1:]] = _sum(pa.concat_tables(parts), pair[1:])
        vocabularies = {
            name: _vocabulary(counts[(stored,)], stored, config.vocabulary)
            for name in (ITEM, *columns.event_features, *columns.item_features, *context)
            for stored in [name if name == ITEM else feature_column(name)]
        }
        items = counts[(ITEM,)].sort_by([(COUNT, "descending"), (ITEM, "ascending")])
        for pair in pairs:
            # The first row of each item has its most frequent value, ties by value.
            mode = counts[pair].sort_by([(COUNT, "descending"), (pair[1], "ascending")])
            mode_items = pa.concat_arrays(mode[ITEM].chunks) if mode.num_rows else pa.array([], mode[ITEM].type)
            index = pc.index_in(items[ITEM], value_set=mode_items)
            items = items.append_column(pair[1], mode[pair[1]].take(index))
        return cls(vocabularies, columns.item_features, items.combine_chunks())

    def num_rows(self) -> dict[str, int]:
        """Return the number of embedding rows of each feature."""
        return {name: vocabulary.num_rows for name, vocabulary in self.features.items()}

    @cached_property
    def item_ids(self) -> pa.Array:
        """The ids of the training items [n], by decreasing count."""
        column = self.items[ITEM]
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)

    @cached_property
    def item_counts(self) -> Ids:
        """The number of training events and impressions of each training item [n]."""
        return np.asarray(self.items[COUNT].to_numpy(), np.int64)

    @cached_property
    def item_rows(self) -> dict[str, Ids]:
        """Embedding rows of the training items, feature -> [n + 1]; the last is for unknown items, except their id."""
        rows = {ITEM: np.append(self.features[ITEM].encode(self.item_ids), -1)}
        for name in self.item_features:
            column = self.items[feature_column(name)]
            vocabulary = self.features[name]
            rows[name] = np.append(vocabulary.encode(column), vocabulary.encode(pa.nulls(1, column.type)))
        return rows

    def item_index(self, items: pa.Array | pa.ChunkedArray) -> Ids:
        """Return each item's index in the item table [items], -1 where the item is not in the training split."""
        return self._item_index.find(self.features[ITEM].typed(items))

    @cached_property
    def _item_index(self) -> IdIndex:
        return IdIndex(self.item_ids)

    def targets(self, items: pa.Array | pa.ChunkedArray, index: Ids | None = None) -> dict[str, Ids]:
        """Return the embedding rows of target items: "item" and the item features, feature -> [items].

        Features come from the item table, the same for positives, negatives and candidates to score; features of an
        unknown item have the row of null. `index` is `item_index(items)`, if that is already computed.
        """
        index = self.item_index(items) if index is None else index
        targets = {name: rows[index] for name, rows in self.item_rows.items()}
        unknown = np.flatnonzero(index < 0)
        if len(unknown):
            targets[ITEM][unknown] = self.features[ITEM].encode(items.take(pa.array(unknown)))
        return targets

    def save(self, folder: Path | str) -> None:
        """Write the vocabularies as Arrow IPC files beside a JSON index."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Files are numbered, since a column's name need not be a valid file name.
        features = [
            {"name": name, "oov_rows": vocabulary.oov_rows, "file": f"vocabulary-{number:03d}.arrow"}
            for number, (name, vocabulary) in enumerate(self.features.items())
        ]
        for entry, vocabulary in zip(features, self.features.values(), strict=True):
            _write(pa.table({"id": vocabulary.ids}), folder / str(entry["file"]))
        index = {"format_version": FORMAT_VERSION, "item_features": self.item_features, "features": features}
        _write(self.items, folder / "items.arrow")
        (folder / INDEX).write_text(json.dumps(index, indent=2))

    @classmethod
    def load(cls, folder: Path | str) -> "Vocabularies":
        """Load vocabularies that `save` wrote; raises DataError if there are none, or they have another format."""
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise DataError(f"{folder}: no vocabularies here (no {INDEX}); train a model, which saves its own")
        index = json.loads((folder / INDEX).read_text())
        if index["format_version"] != FORMAT_VERSION:
            raise DataError(f"{folder}: format {index['format_version']}, expected {FORMAT_VERSION}; fit them again")
        features = {
            entry["name"]: Vocabulary(_read(folder / entry["file"])["id"].combine_chunks(), entry["oov_rows"])
            for entry in index["features"]
        }
        return cls(features, tuple(index["item_features"]), _read(folder / "items.arrow"))


def _write(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
