"""The online store: memories in Redis, one hash a bucket, read over the network.

Keys: `rm-rec:NAME:facts` and `:journal` (JSON), `:bucket:K` (a hash: id's text -> record), `:deleted` (a set of
tombstones), `:writer` (the lock). Each write is one MULTI/EXEC. The server's own settings decide what a loss of power
costs (`appendfsync`), and its files keep a deleted record until they are next rewritten (`BGREWRITEAOF`, `SAVE`).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Self, final

import numpy as np
import pyarrow as pa
import redis
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.memories.record import Memories, check
from feature_store.memories.redis_address import RedisAddress
from feature_store.memories.redis_connection import WriterLock, connect, key_of, redis_told, refuse_evicting
from feature_store.memories.store import (
    Journal,
    MemoryStore,
    NoMemoriesError,
    StoreFacts,
    StoreWriter,
    parse,
    parse_facts,
)
from feature_store.memories.users import bucket_of, from_texts, texts, tombstones_of

_PER_COMMAND = 1_000  # fields of one command: the server serves nobody else while it runs one


@final
class RedisStore(MemoryStore):
    """Memories in Redis, for models that answer while a user waits."""

    def __init__(self, place: str) -> None:
        """Open the store of a name."""
        self.place = RedisAddress.parse(place)
        self.address, self.client = self.place.public, connect(self.place)
        try:
            with redis_told(self.place):
                facts = self.client.get(self.key("facts"))
            if facts is None:
                raise NoMemoriesError(f"{self.address}: no memories here under this name; build them first")
            self._facts_text = facts
            self.facts = parse_facts(facts, self.address)
        except BaseException:
            self.client.close()
            raise

    @classmethod
    def create(cls, place: str, facts: StoreFacts) -> Self:
        """Make an empty store under a name that must be free."""
        address = RedisAddress.parse(place)
        with redis_told(address), connect(address) as client:
            refuse_evicting(client, address)
            if not client.set(key_of(address, "facts"), facts.model_dump_json(), nx=True):
                raise _taken(address)
        return cls(place)

    @classmethod
    def refuse_taken(cls, place: str) -> None:
        """Raise a DataError unless the name is free."""
        address = RedisAddress.parse(place)
        with redis_told(address), connect(address) as client:
            if client.exists(key_of(address, "facts")):
                raise _taken(address)

    @classmethod
    def draft_of(cls, place: str) -> str:
        """Name a store on the same server."""
        address = RedisAddress.parse(place)
        return address.renamed(f"{address.name}.copying")

    @classmethod
    def settle(cls, draft: str, place: str) -> None:
        """Rename all keys in one transaction."""
        source, target = RedisAddress.parse(draft), RedisAddress.parse(place)
        with cls(draft) as store, redis_told(target), store.client.pipeline(transaction=True) as pipeline:
            pipeline.watch(key_of(target, "facts"))
            if pipeline.exists(key_of(target, "facts")):
                raise _taken(target)
            pairs = zip(_keys(source, store.facts), _keys(target, store.facts), strict=True)
            kept = [(old, new) for old, new in pairs if pipeline.exists(old)]
            pipeline.multi()
            for old, new in kept:
                pipeline.rename(old, new)
            try:
                pipeline.execute()
            except redis.WatchError as error:
                if isinstance(error.__context__, redis.ConnectionError | redis.TimeoutError):
                    raise
                raise _taken(target) from None

    @classmethod
    def discard(cls, place: str) -> None:
        """Remove all keys."""
        address = RedisAddress.parse(place)
        with redis_told(address), connect(address) as client:
            facts = client.get(key_of(address, "facts"))
            if facts is not None:
                with WriterLock(client, address):
                    client.unlink(*_keys(address, parse_facts(facts, address.public)))

    def key(self, what: str) -> str:
        """Name one of the store's keys."""
        return key_of(self.place, what)

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        fields = texts(users)
        buckets = bucket_of(users, self.facts.num_buckets)
        asked: list[NDArray[np.int64]] = []
        with redis_told(self.place), self.client.pipeline(transaction=False) as pipeline:
            for bucket in np.unique(buckets).tolist():
                here = np.flatnonzero(buckets == bucket)
                for start in range(0, len(here), _PER_COMMAND):
                    asked.append(here[start : start + _PER_COMMAND])
                    pipeline.hmget(self.key(f"bucket:{bucket}"), [fields[place] for place in asked[-1]])
            answers = pipeline.execute()
        rows: list[bytes | None] = [None] * len(users)
        for places, answer in zip(asked, answers, strict=True):
            for place, row in zip(places, answer, strict=True):
                rows[place] = row
        found = np.fromiter((row is not None for row in rows), bool, len(rows))
        kept = [row for row in rows if row is not None]
        return Memories.from_rows(self.facts.memory, users.filter(pa.array(found)), kept, self.address), found

    def scan(self) -> Iterator[Memories]:
        """Read all records; those written meanwhile may be the old ones or the new."""
        schema = self.facts.memory
        for bucket in range(self.facts.num_buckets):
            seen: set[bytes] = set()  # Redis may give a field twice while it grows a hash
            cursor = None
            while cursor != 0:
                with redis_told(self.place):
                    cursor, answer = self.client.hscan(self.key(f"bucket:{bucket}"), cursor or 0, count=_PER_COMMAND)
                new = {user: row for user, row in answer.items() if user not in seen}
                seen.update(new)
                if new:
                    users = from_texts(new, schema.user_type)
                    memories = Memories.from_rows(schema, users, list(new.values()), self.address)
                    check(memories, self.address)
                    yield memories

    def count(self) -> int:
        """Count the users who have a memory."""
        with redis_told(self.place), self.client.pipeline(transaction=False) as pipeline:
            for bucket in range(self.facts.num_buckets):
                pipeline.hlen(self.key(f"bucket:{bucket}"))
            return sum(pipeline.execute())

    def journal(self) -> Journal:
        """Read what was consumed."""
        with redis_told(self.place):
            text = self.client.get(self.key("journal"))
        return Journal() if text is None else parse(Journal, text, self.address)

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        hashes = tombstones_of(users)
        with redis_told(self.place), self.client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(hashes), _PER_COMMAND):
                pipeline.smismember(self.key("deleted"), hashes[start : start + _PER_COMMAND])
            return np.array([flag for answer in pipeline.execute() for flag in answer], bool)

    def tombstones(self) -> frozenset[bytes]:
        """Give the hashes of all deleted users."""
        with redis_told(self.place):
            return frozenset(self.client.smembers(self.key("deleted")))

    def replaced(self) -> bool:
        """Say whether the name has other facts by now."""
        with redis_told(self.place):
            return bool(self.client.get(self.key("facts")) != self._facts_text)

    def bytes_on_disk(self) -> int:
        """Measure the server's memory that the store takes, as the server estimates it."""
        with redis_told(self.place), self.client.pipeline(transaction=False) as pipeline:
            for key in _keys(self.place, self.facts):
                pipeline.memory_usage(key)
            return sum(filter(None, pipeline.execute()))

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        with redis_told(self.place):
            refuse_evicting(self.client, self.place)
        with WriterLock(self.client, self.place) as lock:
            yield _RedisWriter(self, lock)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def _taken(address: RedisAddress) -> DataError:
    return DataError(f"{address.public}: there is a store here already; open it, or take another name")


def _keys(place: RedisAddress, facts: StoreFacts) -> list[str]:
    buckets = (f"bucket:{bucket}" for bucket in range(facts.num_buckets))
    return [key_of(place, what) for what in ("facts", "journal", "deleted", *buckets)]


@final
class _RedisWriter(StoreWriter):
    def __init__(self, store: RedisStore, lock: WriterLock) -> None:
        super().__init__(store)
        self._key, self._lock, self._place, self._client = store.key, lock, store.place, store.client

    def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
        users, rows = texts(memories.users), memories.rows()
        with self._lock.transaction() as transaction:
            for start in range(0, len(users), _PER_COMMAND):
                chunk = slice(start, start + _PER_COMMAND)
                transaction.hset(
                    self._key(f"bucket:{bucket}"), mapping=dict(zip(users[chunk], rows[chunk], strict=True))
                )
            transaction.set(self._key("journal"), journal.model_dump_json())

    def _finish(self, journal: Journal) -> None:
        with self._lock.transaction() as transaction:
            transaction.set(self._key("journal"), journal.model_dump_json())

    def _delete(self, user: pa.Array) -> bool:
        bucket = int(bucket_of(user, self.store.facts.num_buckets)[0])
        key, (field,) = self._key(f"bucket:{bucket}"), texts(user)
        with redis_told(self._place):
            was = bool(self._client.hexists(key, field))
        with self._lock.transaction() as transaction:
            transaction.sadd(self._key("deleted"), *tombstones_of(user))
            transaction.hdel(key, field)
        return was

    def _bury(self, tombstones: Collection[bytes]) -> None:
        hashes = sorted(tombstones)
        with self._lock.transaction() as transaction:
            for start in range(0, len(hashes), _PER_COMMAND):
                transaction.sadd(self._key("deleted"), *hashes[start : start + _PER_COMMAND])
