"""The online store: memories in Redis, one hash for each bucket, read over the network.

Keys: `rm-rec:NAME:facts` and `:journal` (JSON), `:bucket:K` (a hash: id's text -> record), `:deleted` (a set of
tombstones), `:writer` (the lock). Each write is one MULTI/EXEC. The server's settings decide what a power failure loses
(`appendfsync`); its files contain a deleted record until they are next rewritten (`BGREWRITEAOF`, `SAVE`).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Self, final

import numpy as np
import pyarrow as pa
import redis
from numpy.typing import NDArray

from feature_store.errors import DataError
from feature_store.stores.record import Memories, check
from feature_store.stores.redis_address import RedisAddress
from feature_store.stores.redis_connection import (
    WriterLock,
    check_eviction_policy,
    connect,
    key_of,
    redis_errors_as_data_errors,
)
from feature_store.stores.store import (
    Journal,
    MemoryStore,
    NoMemoriesError,
    StoreFacts,
    StoreWriter,
    parse,
    parse_facts,
)
from feature_store.stores.users import bucket_of, from_texts, texts, tombstones_of

_PER_COMMAND = 1_000  # fields of one command: the server runs no other command meanwhile


@final
class RedisStore(MemoryStore):
    """Memories in Redis, for online serving."""

    def __init__(self, location: str) -> None:
        """Open the store at an address."""
        self.redis_address = RedisAddress.parse(location)
        self.address, self.client = self.redis_address.public, connect(self.redis_address)
        try:
            with redis_errors_as_data_errors(self.redis_address):
                facts = self.client.get(self.key("facts"))
            if facts is None:
                raise NoMemoriesError(f"{self.address}: no memories here under this name; build them first")
            self._facts_text = facts
            self.facts = parse_facts(facts, self.address)
        except BaseException:
            self.client.close()
            raise

    @classmethod
    def create(cls, location: str, facts: StoreFacts) -> Self:
        """Create an empty store; raises DataError if there is one of this name."""
        address = RedisAddress.parse(location)
        with redis_errors_as_data_errors(address), connect(address) as client:
            check_eviction_policy(client, address)
            if not client.set(key_of(address, "facts"), facts.model_dump_json(), nx=True):
                raise _not_free(address)
        return cls(location)

    @classmethod
    def check_free(cls, location: str) -> None:
        """Raise DataError if there is a store of this name."""
        address = RedisAddress.parse(location)
        with redis_errors_as_data_errors(address), connect(address) as client:
            if client.exists(key_of(address, "facts")):
                raise _not_free(address)

    @classmethod
    def draft_location(cls, location: str) -> str:
        """Return the address of a store on the same server."""
        address = RedisAddress.parse(location)
        return address.renamed(f"{address.name}.copying")

    @classmethod
    def publish(cls, draft: str, location: str) -> None:
        """Rename all keys in one transaction."""
        source, target = RedisAddress.parse(draft), RedisAddress.parse(location)
        with (
            cls(draft) as store,
            redis_errors_as_data_errors(target),
            store.client.pipeline(transaction=True) as pipeline,
        ):
            pipeline.watch(key_of(target, "facts"))
            if pipeline.exists(key_of(target, "facts")):
                raise _not_free(target)
            pairs = zip(_keys(source, store.facts), _keys(target, store.facts), strict=True)
            existing = [(old, new) for old, new in pairs if pipeline.exists(old)]
            pipeline.multi()
            for old, new in existing:
                pipeline.rename(old, new)
            try:
                pipeline.execute()
            except redis.WatchError as error:
                if isinstance(error.__context__, redis.ConnectionError | redis.TimeoutError):
                    raise
                raise _not_free(target) from None

    @classmethod
    def remove(cls, location: str) -> None:
        """Remove all keys."""
        address = RedisAddress.parse(location)
        with redis_errors_as_data_errors(address), connect(address) as client:
            facts = client.get(key_of(address, "facts"))
            if facts is not None:
                with WriterLock(client, address):
                    client.unlink(*_keys(address, parse_facts(facts, address.public)))

    def key(self, part: str) -> str:
        """Return the key of one part of the store."""
        return key_of(self.redis_address, part)

    def _find(self, users: pa.Array) -> tuple[Memories, NDArray[np.bool_]]:
        fields = texts(users)
        buckets = bucket_of(users, self.facts.num_buckets)
        requested: list[NDArray[np.int64]] = []
        with redis_errors_as_data_errors(self.redis_address), self.client.pipeline(transaction=False) as pipeline:
            for bucket in np.unique(buckets).tolist():
                in_bucket = np.flatnonzero(buckets == bucket)
                for start in range(0, len(in_bucket), _PER_COMMAND):
                    requested.append(in_bucket[start : start + _PER_COMMAND])
                    pipeline.hmget(self.key(f"bucket:{bucket}"), [fields[index] for index in requested[-1]])
            answers = pipeline.execute()
        rows: list[bytes | None] = [None] * len(users)
        for indices, answer in zip(requested, answers, strict=True):
            for index, row in zip(indices, answer, strict=True):
                rows[index] = row
        matches = np.fromiter((row is not None for row in rows), bool, len(rows))
        existing = [row for row in rows if row is not None]
        return Memories.from_rows(self.facts.memory, users.filter(pa.array(matches)), existing, self.address), matches

    def read_all(self) -> Iterator[Memories]:
        """Yield all memories; of those written meanwhile, the old or the new ones."""
        schema = self.facts.memory
        for bucket in range(self.facts.num_buckets):
            seen: set[bytes] = set()  # Redis may return a field twice while it resizes a hash
            cursor = None
            while cursor != 0:
                with redis_errors_as_data_errors(self.redis_address):
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
        with redis_errors_as_data_errors(self.redis_address), self.client.pipeline(transaction=False) as pipeline:
            for bucket in range(self.facts.num_buckets):
                pipeline.hlen(self.key(f"bucket:{bucket}"))
            return sum(pipeline.execute())

    def journal(self) -> Journal:
        """Return the journal."""
        with redis_errors_as_data_errors(self.redis_address):
            text = self.client.get(self.key("journal"))
        return Journal() if text is None else parse(Journal, text, self.address)

    def _were_deleted(self, users: pa.Array) -> NDArray[np.bool_]:
        hashes = tombstones_of(users)
        with redis_errors_as_data_errors(self.redis_address), self.client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(hashes), _PER_COMMAND):
                pipeline.smismember(self.key("deleted"), hashes[start : start + _PER_COMMAND])
            return np.array([flag for answer in pipeline.execute() for flag in answer], bool)

    def tombstones(self) -> frozenset[bytes]:
        """Return the tombstones of all deleted users."""
        with redis_errors_as_data_errors(self.redis_address):
            return frozenset(self.client.smembers(self.key("deleted")))

    def replaced(self) -> bool:
        """Return whether the name now has other facts, or none."""
        with redis_errors_as_data_errors(self.redis_address):
            return bool(self.client.get(self.key("facts")) != self._facts_text)

    def bytes_on_disk(self) -> int:
        """Return the server's memory that the store takes in bytes, as the server estimates it."""
        with redis_errors_as_data_errors(self.redis_address), self.client.pipeline(transaction=False) as pipeline:
            for key in _keys(self.redis_address, self.facts):
                pipeline.memory_usage(key)
            return sum(filter(None, pipeline.execute()))

    @contextmanager
    def _writer(self) -> Iterator[StoreWriter]:
        with redis_errors_as_data_errors(self.redis_address):
            check_eviction_policy(self.client, self.redis_address)
        with WriterLock(self.client, self.redis_address) as lock:
            yield _RedisWriter(self, lock)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def _not_free(address: RedisAddress) -> DataError:
    return DataError(f"{address.public}: there is a store here already; open it, or choose another name")


def _keys(address: RedisAddress, facts: StoreFacts) -> list[str]:
    buckets = (f"bucket:{bucket}" for bucket in range(facts.num_buckets))
    return [key_of(address, part) for part in ("facts", "journal", "deleted", *buckets)]


@final
class _RedisWriter(StoreWriter):
    def __init__(self, store: RedisStore, lock: WriterLock) -> None:
        super().__init__(store)
        self._key, self._lock, self._redis_address, self._client = store.key, lock, store.redis_address, store.client

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
        with redis_errors_as_data_errors(self._redis_address):
            existed = bool(self._client.hexists(key, field))
        with self._lock.transaction() as transaction:
            transaction.sadd(self._key("deleted"), *tombstones_of(user))
            transaction.hdel(key, field)
        return existed

    def _add_tombstones(self, tombstones: Collection[bytes]) -> None:
        hashes = sorted(tombstones)
        with self._lock.transaction() as transaction:
            for start in range(0, len(hashes), _PER_COMMAND):
                transaction.sadd(self._key("deleted"), *hashes[start : start + _PER_COMMAND])
