"""How far one gets by knowing only the last event: the honest floor for logs where users repeat themselves.

python benchmarks/last_event_baseline.py --config pipelines/recipes/wikipedia_edits.yaml --data.log LOG --out FOLDER

Scores each held-out impression by whether its item is the item of the user's event before (`same_item`) and, where
events have features of their own (an answer's outcome), by how often training impressions after such an event, of the
same item or of another, were clicked (`last_event`). The prepared log is left in FOLDER. The last line is JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.data_config import ITEM
from feature_store.sequences.user_sequences import UserSequences
from pipelines.cli import load_settings
from pipelines.train_ctr import TrainCtr
from pipelines.training.data import TEST, TRAIN, LogData
from rm_rec.evaluation.metrics import auc


def last_events(sequences: UserSequences, features: tuple[str, ...]) -> NDArray[np.int64]:
    """Describe each impression by its last event: [I, 1 + features]; same item or not, then the event's features."""
    owner = np.repeat(np.arange(len(sequences)), np.diff(sequences.impression_offsets))
    last = sequences.event_offsets[owner] + sequences.num_earlier - 1
    known = sequences.num_earlier > 0
    last = np.where(known, last, 0)
    same = known & (sequences.events[ITEM][last] == sequences.targets[ITEM])
    others = [np.where(known, sequences.events[name][last], -1) for name in features]
    return np.stack([same.astype(np.int64), *others], axis=1)


def main() -> None:
    """Score the test split of one recipe's log."""
    print(__doc__)
    settings = load_settings(TrainCtr, sys.argv[1:], prog=f"python {sys.argv[0]}", description=__doc__ or "")
    data = LogData.prepare(settings.data, Path(settings.out) / "prepared", notify=print)
    keys, labels, splits = [], [], []
    for sequences in data.buckets():
        keys.append(last_events(sequences, settings.data.columns.event_features))
        labels.append(sequences.label)
        splits.append(sequences.split)
    key, label, split = np.concatenate(keys), np.concatenate(labels), np.concatenate(splits)
    test, train = split == TEST, split == TRAIN
    figures = {"same_item": auc(label[test], key[test, 0].astype(np.float64))}
    kinds, kind = np.unique(key, axis=0, return_inverse=True)
    clicks = np.bincount(kind[train], weights=label[train], minlength=len(kinds))
    shown = np.bincount(kind[train], minlength=len(kinds))
    rate = (clicks + label[train].mean()) / (shown + 1)
    figures["last_event"] = auc(label[test], rate[kind[test]])
    print(json.dumps({name: round(value, 4) for name, value in figures.items() if value is not None}))


if __name__ == "__main__":
    main()
