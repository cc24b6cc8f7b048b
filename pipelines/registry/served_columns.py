"""The columns of a request to a served model, which are those of its training log, and how requests are scored."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.ragged import Ids
from feature_store.stores import MemoryStore
from feature_store.vocabulary.vocabulary import canonical
from pipelines.models.artifact import ModelCard, TrainedModel
from pipelines.scoring.candidate_files import CandidateNames, dense_of, times_of
from pipelines.scoring.scorer import Scorer, encode

MODEL = "model"  # the artifact of an MLflow model that holds the files of `pipelines.models.artifact`
MEMORIES, MOMENT, ALLOWED = "memories", "at", "allow_packages"  # keys of a served model's config
SETTINGS = (MEMORIES, MOMENT, ALLOWED)
PREDICTION = "prediction"
_WHERE = "the request"


@dataclass(frozen=True)
class ServedColumns:
    """The columns of a request; the column of times is optional."""

    user: str
    item: str
    time: str
    context: tuple[str, ...]
    dense: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard) -> "ServedColumns":
        """Return the columns of the log, or of the files of impressions, that the model was trained on."""
        names = CandidateNames.of_log(card)
        assert names.time is not None  # a log always has times
        return cls(names.user, names.item, names.time, names.context, names.dense)

    @property
    def required(self) -> tuple[str, ...]:
        """All columns except the time, each once: a column may be both categorical and numeric context."""
        return tuple(dict.fromkeys((self.user, self.item, *self.context, *self.dense)))

    def score(
        self, rows: pd.DataFrame, store: MemoryStore, trained: TrainedModel, at: int | None
    ) -> NDArray[np.float64]:
        """Return the click probability of each row.

        Rows without a time have the time `at` or, if that is None, one unit after the store's newest event.

        Raises:
            DataError: a column is missing or cannot be read, or a memory has an event that is not before its row.
            ArrowException: a column cannot be converted to Arrow.
        """
        missing = [name for name in self.required if name not in rows.columns]
        if missing:
            expected = f"{', '.join(self.required)} and optionally {self.time}"
            raise DataError(f"{_WHERE} has no column {missing[0]!r}; expected {expected}")
        if not len(rows):
            return np.zeros(0)
        has_time = self.time in rows.columns
        columns = [*self.required, *([self.time] if has_time and self.time not in self.required else [])]
        table = pa.Table.from_pandas(rows[columns], preserve_index=False)
        if has_time:
            return self._score(table, times_of(table, self.time, 0, _WHERE), store, trained)
        if at is not None:
            return self._score(table, np.full(len(table), at, np.int64), store, trained)
        time = store.journal().after_newest()
        while True:
            try:
                return self._score(table, np.full(len(table), time, np.int64), store, trained)
            except DataError:
                before, time = time, store.journal().after_newest()
                if time == before:
                    raise
                # Else a running build wrote to the store after the time was read: try again with the new time.

    def _score(self, table: pa.Table, time: Ids, store: MemoryStore, trained: TrainedModel) -> NDArray[np.float64]:
        context = {name: table[name] for name in self.context}
        candidates = encode(trained, table[self.item], time, context, dense_of(table, self.dense, 0, _WHERE))
        return Scorer(trained, store).score(canonical(table[self.user]), candidates).probability
