"""A prepared log as training reads it: bucket after bucket of users, with new negatives in each epoch."""

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
    """The users of a prepared log, of which one bucket is in memory at a time.

    `negatives_of` is the vocabulary that held-out negatives are sampled from; the default is `vocabularies`.
    """

    def __init__(
        self,
        config: DataConfig,
        prepared: PreparedLog,
        vocabularies: Vocabularies,
        negatives_of: Vocabularies | None = None,
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.vocabularies = vocabularies
        self._negatives_of = negatives_of
        self._last: tuple[int, UserSequences] | None = None

    @classmethod
    def prepare(
        cls,
        config: DataConfig,
        folder: Path,
        notify: Callable[[str], None],
        vocabularies: Vocabularies | None = None,
    ) -> "LogData":
        """Check, bucket and sort the log into a folder; without vocabularies, make them from the training events."""
        prepared = prepare(config, folder, notify=notify)
        return cls(config, prepared, vocabularies or Vocabularies.fit(prepared, config))

    def bucket(self, index: int) -> UserSequences:
        """Read one bucket of users."""
        if self._last is None or self._last[0] != index:
            sequences = load_sequences(self.prepared, index, self.vocabularies, self.config, self._negatives_of)
            self._last = (index, sequences)
        return self._last[1]

    def buckets(self) -> Iterator[UserSequences]:
        """Read all users, bucket after bucket."""
        for index in range(self.prepared.num_buckets):
            yield self.bucket(index)

    def num_impressions(self, split: int) -> int:
        """Count the impressions of a split, including sampled negatives."""
        num_logged = sum(self.prepared.manifest.split_counts[split])
        impressions = self.config.impressions
        return num_logged * (1 + impressions.negatives) if isinstance(impressions, NextEvent) else num_logged

    @property
    def num_training_events(self) -> int:
        """Approximate number of events that training reads in an epoch, by its fraction of the impressions."""
        manifest = self.prepared.manifest
        train, *others = (sum(counts) for counts in manifest.split_counts)
        return manifest.events * train // max(1, train + sum(others))

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[UserSequences, np.random.Generator]]:
        """Read all users in an order and with negatives that depend only on the seed and the epoch."""
        order = np.random.default_rng([seed, epoch]).permutation(self.prepared.num_buckets)
        for index in order:
            generator = np.random.default_rng([seed, epoch, int(index)])
            sequences = self.bucket(int(index))
            negatives_seed = int(generator.integers(2**31))
            yield resample_negatives(sequences, self.vocabularies, self.config, negatives_seed), generator
