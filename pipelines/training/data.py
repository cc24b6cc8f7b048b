"""A prepared log as training sees it: bucket after bucket of users, with negatives drawn anew each epoch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from feature_store.data_config import SPLITS, DataConfig, NextEvent
from feature_store.logs.preparation import prepare
from feature_store.logs.prepared_log import PreparedLog
from feature_store.sequences.user_sequences import UserSequences, load_sequences, resample_negatives
from feature_store.vocabulary.vocabularies import Vocabularies

TRAIN, VALIDATION, TEST = range(len(SPLITS))


class LogData:
    """One bucket of users is in memory at a time; a log of one bucket is read once.

    Held-out negatives are items of `drawn_from`, where another model's are asked for.
    """

    def __init__(
        self,
        config: DataConfig,
        prepared: PreparedLog,
        vocabularies: Vocabularies,
        drawn_from: Vocabularies | None = None,
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.vocabularies = vocabularies
        self._drawn_from = drawn_from
        self._last: tuple[int, UserSequences] | None = None

    @classmethod
    def prepare(
        cls,
        config: DataConfig,
        folder: Path,
        report: Callable[[str], None],
        vocabularies: Vocabularies | None = None,
    ) -> "LogData":
        """Check, bucket and sort the log in a folder; without vocabularies, count them on the training events."""
        prepared = prepare(config, folder, notify=report)
        return cls(config, prepared, vocabularies or Vocabularies.fit(prepared, config))

    def bucket(self, index: int) -> UserSequences:
        """Read one bucket of users."""
        if self._last is None or self._last[0] != index:
            found = load_sequences(self.prepared, index, self.vocabularies, self.config, self._drawn_from)
            self._last = (index, found)
        return self._last[1]

    def buckets(self) -> Iterator[UserSequences]:
        """Read all users, bucket after bucket."""
        for index in range(self.prepared.num_buckets):
            yield self.bucket(index)

    def num_impressions(self, split: int) -> int:
        """Count the impressions of a split, sampled negatives among them."""
        of_log = sum(self.prepared.manifest.split_counts[split])
        impressions = self.config.impressions
        return of_log * (1 + impressions.negatives) if isinstance(impressions, NextEvent) else of_log

    @property
    def num_training_events(self) -> int:
        """About how many events training reads in an epoch: the events, in the share of training's impressions."""
        manifest = self.prepared.manifest
        train, *others = (sum(counts) for counts in manifest.split_counts)
        return manifest.events * train // max(1, train + sum(others))

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[UserSequences, np.random.Generator]]:
        """Read all users in an order, and with negatives, that depend on the seed and the epoch alone."""
        order = np.random.default_rng([seed, epoch]).permutation(self.prepared.num_buckets)
        for index in order:
            generator = np.random.default_rng([seed, epoch, int(index)])
            sequences = self.bucket(int(index))
            negatives_seed = int(generator.integers(2**31))
            yield resample_negatives(sequences, self.vocabularies, self.config, negatives_seed), generator
