"""Click probabilities of candidates from their users' memories, and from nothing else."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.memories.record import Memories
from feature_store.memories.store import MemoryStore
from feature_store.memories.users import typed
from feature_store.ragged import Ids
from feature_store.vocabulary import canonical
from pipelines.memory.user_memories import to_model
from pipelines.models.artifact import TrainedModel
from rm_rec.memories import Candidates, UserMemories

_USERS_AT_ONCE, _CANDIDATES_AT_ONCE = 64, 8192  # what fits a core's cache scores fastest


@dataclass(frozen=True)
class CandidateRows:
    """Candidates as they come: the log's own ids."""

    users: pa.Array | pa.ChunkedArray
    items: pa.ChunkedArray
    time: Ids
    context: dict[str, pa.ChunkedArray]  # feature -> [I]
    context_dense: NDArray[np.float32]  # [I, number of dense context features]


@dataclass(frozen=True)
class EncodedRows:
    """Candidates as a model reads them: embedding rows."""

    time: Ids
    targets: dict[str, Ids]
    context: dict[str, Ids]
    context_dense: NDArray[np.float32]

    def take(self, rows: Ids) -> "EncodedRows":
        """Keep some of the candidates."""
        return EncodedRows(
            time=self.time[rows],
            targets={name: ids[rows] for name, ids in self.targets.items()},
            context={name: ids[rows] for name, ids in self.context.items()},
            context_dense=self.context_dense[rows],
        )


def encode(trained: TrainedModel, candidates: CandidateRows) -> EncodedRows:
    """Turn ids into embedding rows; an item's features come from the model's own table of items."""
    vocabularies = trained.vocabularies
    return EncodedRows(
        time=candidates.time,
        targets=vocabularies.targets(canonical(candidates.items)),
        context={name: vocabularies.features[name].encode(values) for name, values in candidates.context.items()},
        context_dense=candidates.context_dense,
    )


@torch.inference_mode()
def click_probability(
    trained: TrainedModel, memories: UserMemories, user: Ids, candidates: EncodedRows
) -> NDArray[np.float64]:
    """Return the click probability of each of [I] candidates; `user` is each one's place among the memories."""
    logits = trained.model.score(
        memories,
        Candidates(
            user=torch.from_numpy(user),
            time=torch.from_numpy(candidates.time),
            targets={name: torch.from_numpy(ids) for name, ids in candidates.targets.items()},
            context={name: torch.from_numpy(ids) for name, ids in candidates.context.items()},
            context_dense=torch.from_numpy(candidates.context_dense),
        ),
    )
    probability: NDArray[np.float64] = torch.sigmoid(logits.double()).numpy()
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

    def score(self, candidates: CandidateRows) -> Scores:
        """Score candidates of users in any order; unknown users and items are scored as cold.

        Raises:
            DataError: ids of another type than the store's or the model's, or a memory that holds an event which is not
                before its candidate's time.
        """
        given = typed(candidates.users, self.store.facts.memory.user_type, self.store.address)
        users = given.dictionary_encode(null_encoding="encode")
        memories, found = self.store.get(users.dictionary)
        user = users.indices.to_numpy().astype(np.int64)
        self._refuse_later(memories, found, users.dictionary, user, candidates.time)
        probability = np.zeros(len(user))
        order = np.argsort(user, kind="stable")
        place = np.cumsum(found) - 1
        encoded = encode(self.trained, candidates)
        for first, last in _runs(user[order]):
            some = order[first:last]
            who, theirs = np.unique(user[some], return_inverse=True)
            known = to_model(self.trained.model, memories.select(place[who[found[who]]]), found[who])
            probability[some] = click_probability(self.trained, known, theirs, encoded.take(some))
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
