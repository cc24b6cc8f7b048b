"""Click probabilities of candidates from their users' memories, and from nothing else."""

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

_USERS_AT_ONCE, _CANDIDATES_AT_ONCE = 64, 8192  # what fits a core's cache scores fastest


def encode(
    trained: TrainedModel,
    items: pa.ChunkedArray,
    time: Ids,
    context: Mapping[str, pa.ChunkedArray],
    context_dense: NDArray[np.float32],
) -> Candidates:
    """Turn the log's own ids of candidates [I] into embedding rows; whose they are is said later.

    An item's features come from the model's own table of items.
    """
    vocabularies = trained.vocabularies
    return Candidates(
        user=torch.zeros(len(time), dtype=torch.int64),
        time=torch.tensor(time),  # a copy: Arrow's own memory cannot be written to, of which torch warns
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
    """What a model says of candidates."""

    probability: NDArray[np.float64]  # [I] of a click
    cold: int
    """How many are of users without a memory."""


class Scorer:
    """Scores candidates of many users, of any order, against one store."""

    def __init__(self, trained: TrainedModel, store: MemoryStore) -> None:
        self.trained, self.store = trained, store

    def score(self, users: pa.Array | pa.ChunkedArray, candidates: Candidates) -> Scores:
        """Score candidates of `users` [I], in any order; unknown users and items are scored as cold.

        Raises:
            DataError: ids of another type than the store's or the model's, or a memory that holds an event which is not
                before its candidate's time.
        """
        given = typed(users, self.store.facts.memory.user_type, self.store.address)
        coded = given.dictionary_encode(null_encoding="encode")
        memories, found = self.store.get(coded.dictionary)
        user = coded.indices.to_numpy().astype(np.int64)
        self._refuse_later(memories, found, coded.dictionary, user, candidates.time.numpy())
        probability = np.zeros(len(user))
        order = np.argsort(user, kind="stable")
        place = np.cumsum(found) - 1
        for first, last in _runs(user[order]):
            some = order[first:last]
            who, theirs = np.unique(user[some], return_inverse=True)
            known = to_model(self.trained.model.memory, memories.select(place[who[found[who]]]), found[who])
            chosen = candidates.take(torch.from_numpy(some)).of_users(torch.from_numpy(theirs))
            probability[some] = click_probability(self.trained, known, chosen)
        return Scores(probability, cold=int((~found)[user].sum()))

    def _refuse_later(
        self, memories: Memories, found: NDArray[np.bool_], users: pa.Array, user: Ids, time: Ids
    ) -> None:
        newest = np.full(len(found), np.iinfo(np.int64).min)
        newest[found] = memories.records["last_time"]
        later = np.flatnonzero(newest[user] >= time)
        if len(later):
            who = user[later[0]]
            raise DataError(
                f"{self.store.address}: the memory of user {users[int(who)].as_py()!r} has an event of {newest[who]}, "
                f"no earlier than its candidate's time {time[later[0]]}, and would look ahead; score later candidates, "
                "or build memories of earlier events alone"
            )


def _runs(sorted_user: Ids) -> list[tuple[int, int]]:
    """Cut candidates, sorted by user, into runs of few users and not too many candidates."""
    bounds = [*np.flatnonzero(np.diff(sorted_user, prepend=-1)).tolist(), len(sorted_user)]
    runs, first = [], 0
    for begin, end in pairwise(bounds):
        if begin > first and (
            end - first > _CANDIDATES_AT_ONCE or sorted_user[begin] - sorted_user[first] >= _USERS_AT_ONCE
        ):
            runs.append((first, begin))
            first = begin
        while end - first > _CANDIDATES_AT_ONCE:
            runs.append((first, first + _CANDIDATES_AT_ONCE))
            first += _CANDIDATES_AT_ONCE
    if first < len(sorted_user):
        runs.append((first, len(sorted_user)))
    return runs
