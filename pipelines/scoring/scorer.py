"""Click probabilities of candidates from their users' memories alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.ragged import Ids
from feature_store.stores.record import Memories
from feature_store.stores.store import MemoryStore
from feature_store.stores.users import typed
from feature_store.vocabulary.vocabulary import canonical
from pipelines.models.artifact import TrainedModel
from pipelines.models.memory_records import to_model
from rm_rec.batch import Candidates
from rm_rec.memory_state import MemoryState

_USERS_PER_BATCH, _CANDIDATES_PER_BATCH = 64, 8192  # batches that fit a core's cache are scored fastest


def encode(
    trained: TrainedModel,
    items: pa.ChunkedArray,
    time: Ids,
    context: Mapping[str, pa.ChunkedArray],
    context_dense: NDArray[np.float32],
) -> Candidates:
    """Convert ids of candidates [I], as the log has them, to embedding rows; their users are set later.

    Features of items come from the model's table of items.
    """
    vocabularies = trained.vocabularies
    return Candidates(
        user=torch.zeros(len(time), dtype=torch.int64),
        time=torch.tensor(time),  # a copy: torch warns of Arrow's read-only memory
        targets={name: torch.from_numpy(rows) for name, rows in vocabularies.targets(canonical(items)).items()},
        context={name: torch.from_numpy(vocabularies.features[name].encode(ids)) for name, ids in context.items()},
        context_dense=torch.from_numpy(context_dense),
    )


@torch.inference_mode()
def click_probability(trained: TrainedModel, memories: MemoryState, candidates: Candidates) -> NDArray[np.float64]:
    """Return the click probability of each of [I] candidates."""
    probability: NDArray[np.float64] = torch.sigmoid(trained.model.score(memories, candidates).double()).numpy()
    return probability


@dataclass(frozen=True)
class Scores:
    """Scores of candidates."""

    probability: NDArray[np.float64]
    """Click probability of each candidate [I]."""
    cold: int
    """Number of candidates whose users have no memory."""


class Scorer:
    """Scores candidates with the memories of one store."""

    def __init__(self, trained: TrainedModel, store: MemoryStore) -> None:
        self.trained, self.store = trained, store

    def score(self, users: pa.Array | pa.ChunkedArray, candidates: Candidates) -> Scores:
        """Score candidates of `users` [I], in any order; users without a memory get an empty one.

        Raises:
            DataError: ids have another type than the store's or the model's, or a memory has an event that is not
                before its candidate's time.
        """
        ids = typed(users, self.store.facts.memory.user_type, self.store.address)
        coded = ids.dictionary_encode(null_encoding="encode")
        memories, has_memory = self.store.get(coded.dictionary)
        user = coded.indices.to_numpy().astype(np.int64)
        self._check_times(memories, has_memory, coded.dictionary, user, candidates.time.numpy())
        probability = np.zeros(len(user))
        order = np.argsort(user, kind="stable")
        row = np.cumsum(has_memory) - 1  # of a user among `memories`
        for first, last in _batches(user[order]):
            indices = order[first:last]
            users_of_batch, user_index = np.unique(user[indices], return_inverse=True)
            known = memories.select(row[users_of_batch[has_memory[users_of_batch]]])
            state = to_model(self.trained.model.memory, known, has_memory[users_of_batch])
            batch = candidates.take(torch.from_numpy(indices)).of_users(torch.from_numpy(user_index))
            probability[indices] = click_probability(self.trained, state, batch)
        return Scores(probability, cold=int((~has_memory)[user].sum()))

    def _check_times(
        self, memories: Memories, has_memory: NDArray[np.bool_], users: pa.Array, user: Ids, time: Ids
    ) -> None:
        """Raise DataError if a memory has an event that is not before its candidate's time."""
        newest = np.full(len(has_memory), np.iinfo(np.int64).min)
        newest[has_memory] = memories.records["last_time"]
        later = np.flatnonzero(newest[user] >= time)
        if len(later):
            first = int(user[later[0]])
            raise DataError(
                f"{self.store.address}: the memory of user {users[first].as_py()!r} has an event of {newest[first]}, "
                f"no earlier than its candidate's time {time[later[0]]}, and would look ahead; score later candidates, "
                "or build memories of earlier events alone"
            )


def _batches(sorted_user: Ids) -> list[tuple[int, int]]:
    """Cut candidates, sorted by user, into (first, last) batches of limited numbers of users and candidates."""
    bounds = [*np.flatnonzero(np.diff(sorted_user, prepend=-1)).tolist(), len(sorted_user)]
    batches, first = [], 0
    for begin, end in pairwise(bounds):
        if begin > first and (
            end - first > _CANDIDATES_PER_BATCH or sorted_user[begin] - sorted_user[first] >= _USERS_PER_BATCH
        ):
            batches.append((first, begin))
            first = begin
        while end - first > _CANDIDATES_PER_BATCH:
            batches.append((first, first + _CANDIDATES_PER_BATCH))
            first += _CANDIDATES_PER_BATCH
    if first < len(sorted_user):
        batches.append((first, len(sorted_user)))
    return batches
