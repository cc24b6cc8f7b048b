"""Small memories with random values, drawn from a seed, and stores filled with them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.stores.memory_schema import MemorySchema
from feature_store.stores.record import Memories, make_memories
from feature_store.stores.store import Build, Journal, MemoryStore, StoreFacts, UnderWay
from feature_store.stores.users import bucket_of
from feature_store.testing.contract import expect

SCHEMA = MemorySchema(
    state={"sum": (3, 4), "count": (3,)},
    exact=("count",),
    window_events=5,
    features=("item", "shop"),
    user_type="int64",
)
NUM_BUCKETS = 4
FACTS = StoreFacts(space_id="space-1", memory=SCHEMA, num_buckets=NUM_BUCKETS)
USERS = pa.array(range(-20, 40))


def _part(schema: MemorySchema, name: str, num_users: int, draw: np.random.Generator) -> NDArray[Any]:
    """Draw a part of the state: normal floats, or integers over the whole range of its type."""
    shape = (num_users, *schema.state[name])
    if schema.type_of(name).startswith("float"):
        return draw.normal(0, 50, shape).astype("f4")
    limits = np.iinfo(schema.type_of(name))
    return draw.integers(limits.min, limits.max, shape, schema.type_of(name), endpoint=True)


def arrays(schema: MemorySchema, num_users: int, seed: int = 0) -> dict[str, Any]:
    """Draw the arguments of `make_memories` besides schema and users."""
    draw = np.random.default_rng(seed)
    window = (num_users, schema.window_events)
    return {
        "state": {name: _part(schema, name, num_users, draw) for name in schema.state},
        "last_time": draw.integers(-(2**62), 2**62, num_users),
        "num_events": draw.integers(0, 2**40, num_users),
        "num_window": draw.integers(0, schema.window_events + 1, num_users),
        "window": {
            "time": draw.integers(-(2**62), 2**62, window),
            "time_gap": draw.integers(0, 256, window),
            **{name: draw.integers(-(2**31), 2**31, window) for name in schema.features},
        },
    }


def memories_of(users: pa.Array, seed: int = 0, schema: MemorySchema = SCHEMA) -> Memories:
    """Return random memories of some users."""
    return make_memories(schema, users, **arrays(schema, len(users), seed))


def in_bucket(users: pa.Array, bucket: int, num_buckets: int = NUM_BUCKETS) -> pa.Array:
    """Return those of the users who belong to a bucket."""
    return users.filter(pa.array(bucket_of(users, num_buckets) == bucket))


def journal_at(build: int, step: int) -> Journal:
    """Return a journal with `build` finished builds and `step` committed steps of the next one."""
    finished = tuple(Build(id=f"build-{number}", events=number) for number in range(build))
    return Journal(builds=finished, under_way=UnderWay(build=Build(id=f"build-{build}"), step=step) if step else None)


def fill(store: MemoryStore, users: pa.Array = USERS, seed: int = 0, build: int = 0) -> dict[Any, bytes]:
    """Write memories of the users as one build; return each user's record."""
    written: dict[Any, bytes] = {}
    with store.writer() as writer:
        for bucket in range(store.facts.num_buckets):
            users_here = in_bucket(users, bucket, store.facts.num_buckets)
            memories = memories_of(users_here, seed + bucket, store.facts.memory)
            writer.write(bucket, memories, journal_at(build, bucket + 1))
            written |= by_user([memories])
        writer.finish(journal_at(build + 1, 0))
    return written


def by_user(parts: Iterable[Memories]) -> dict[Any, bytes]:
    """Return each user's record; raises ContractError if a user occurs twice."""
    records: dict[Any, bytes] = {}
    for part in parts:
        for user, row in zip(part.users.to_pylist(), part.rows(), strict=True):
            expect(user not in records, f"user {user!r} occurs twice")
            records[user] = bytes(row)
    return records
