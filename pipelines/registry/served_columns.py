"""What a served model is asked, and how a table of it becomes scores: the columns of the log it was trained on."""

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
MEMORIES, MOMENT, ALLOWED = "memories", "at", "allow_packages"  # the keys of a served model's config
SETTINGS = (MEMORIES, MOMENT, ALLOWED)
PREDICTION = "prediction"
_WHERE = "the request"


@dataclass(frozen=True)
class ServedColumns:
    """The columns of a request; a row without a time is of the moment of the answer."""

    user: str
    item: str
    time: str
    context: tuple[str, ...]
    dense: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard) -> "ServedColumns":
        """Name the columns as the log, or the impressions' own files, that the model was trained on."""
        names = CandidateNames.of_log(card)
        assert names.time is not None  # a log has times
        return cls(names.user, names.item, names.time, names.context, names.dense)

    @property
    def required(self) -> tuple[str, ...]:
        """All but the time, each once: a column may be a category and a number."""
        return tuple(dict.fromkeys((self.user, self.item, *self.context, *self.dense)))

    def score(
        self, rows: pd.DataFrame, store: MemoryStore, trained: TrainedModel, at: int | None
    ) -> NDArray[np.float64]:
        """Return the click probability of each row; `at` is the moment of rows without a time.

        Without `at` either they are of the moment after the store's newest event. Raises DataError, or an error of
        Arrow's, where a column is missing or cannot be read, or a memory holds an event that is not before its row.
        """
        missing = [name for name in self.required if name not in rows.columns]
        if missing:
            expected = f"{', '.join(self.required)} and, if you like, {self.time}"
            raise DataError(f"{_WHERE} has no column {missing[0]!r}; expected {expected}")
        if not len(rows):
            return np.zeros(0)
        has_time = self.time in rows.columns
        wanted = [*self.required, *([self.time] if has_time and self.time not in self.required else [])]
        table = pa.Table.from_pandas(rows[wanted], preserve_index=False)
        if has_time:
            return self._score(table, times_of(table, self.time, 0, _WHERE), store, trained)
        if at is not None:
            return self._score(table, np.full(len(table), at, np.int64), store, trained)
        moment = store.journal().after_newest()
        while True:
            try:
                return self._score(table, np.full(len(table), moment, np.int64), store, trained)
            except DataError:
                before, moment = moment, store.journal().after_newest()
                if moment == before:
                    raise
                # Else a build at work wrote to the store between the look at the moment and the one at the memories.

    def _score(self, table: pa.Table, time: Ids, store: MemoryStore, trained: TrainedModel) -> NDArray[np.float64]:
        context = {name: table[name] for name in self.context}
        candidates = encode(trained, table[self.item], time, context, dense_of(table, self.dense, 0, _WHERE))
        return Scorer(trained, store).score(canonical(table[self.user]), candidates).probability
