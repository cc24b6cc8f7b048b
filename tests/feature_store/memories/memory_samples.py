"""Small memories whose values are drawn anew from each seed, and stores filled with them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store.memories import (
    Build,
    Journal,
    Memories,
    MemorySchema,
    MemoryStore,
    StoreFacts,
    UnderWay,
    bucket_of,
    make_memories,
)

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


def part_of(schema: MemorySchema, name: str, num_users: int, draw: np.random.Generator) -> Any:
    """Draw a part of the state: floats, or any integers that its type has."""
    shape = (num_users, *schema.state[name])
    if schema.type_of(name).startswith("float"):
        return draw.normal(0, 50, shape).astype("f4")
    limits = np.iinfo(schema.type_of(name))
    return draw.integers(limits.min, limits.max, shape, schema.type_of(name), endpoint=True)


def arrays(schema: MemorySchema, num_users: int, seed: int = 0) -> dict[str, Any]:
    """Draw what `make_memories` takes beside schema and users."""
    draw = np.random.default_rng(seed)
    window = (num_users, schema.window_events)
    return {
        "state": {name: part_of(schema, name, num_users, draw) for name in schema.state},
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
    return make_memories(schema, users, **arrays(schema, len(users), seed))


def in_bucket(users: pa.Array, bucket: int, num_buckets: int = NUM_BUCKETS) -> pa.Array:
    return users.filter(pa.array(bucket_of(users, num_buckets) == bucket))


def journal_at(build: int, step: int) -> Journal:
    """Say that `build` builds are finished, and `step` steps of the next."""
    done = tuple(Build(id=f"build-{number}", events=number) for number in range(build))
    return Journal(builds=done, under_way=UnderWay(build=Build(id=f"build-{build}"), step=step) if step else None)


def fill(store: MemoryStore, users: pa.Array = USERS, seed: int = 0, build: int = 0) -> dict[Any, bytes]:
    """Run a whole build; returns each user's record."""
    written: dict[Any, bytes] = {}
    with store.writer() as writer:
        for bucket in range(store.facts.num_buckets):
            here = in_bucket(users, bucket, store.facts.num_buckets)
            memories = memories_of(here, seed + bucket, store.facts.memory)
            writer.write(bucket, memories, journal_at(build, bucket + 1))
            written |= by_user([memories])
        writer.finish(journal_at(build + 1, 0))
    return written


def by_user(parts: Iterable[Memories]) -> dict[Any, bytes]:
    found: dict[Any, bytes] = {}
    for part in parts:
        for user, row in zip(part.users.to_pylist(), part.rows(), strict=True):
            assert user not in found, f"user {user!r} comes twice"
            found[user] = bytes(row)
    return found


def in_child(work: Callable[..., object], *arguments: Any) -> str:
    """Run work in a process of its own; returns its answer, or its error's text."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")

    def run() -> None:
        try:
            theirs.send(str(work(*arguments)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the parent
            theirs.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    theirs.close()
    answer = ours.recv() if ours.poll(60) else "no answer"
    child.join(60)
    return str(answer)


def killed_after(seconds: float, work: Callable[..., object], *arguments: Any) -> list[str]:
    """Run work in a process of its own and kill it; `work` gets a function that says what is done. Returns that."""
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")

    def run() -> None:
        os.close(reading)
        work(lambda done: os.write(writing, f"{done}\n".encode()), *arguments)

    child = context.Process(target=run)
    child.start()
    os.close(writing)
    with os.fdopen(reading) as said:
        first = said.readline()  # so that the time is not spent on starting
        child.join(seconds)
        assert child.pid is not None
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return [line.strip() for line in [first, *said]]
