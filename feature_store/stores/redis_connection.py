"""Connections to Redis: errors without the password, and a lock that keeps a writer that lost it from writing."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_store.errors import DataError, LockedError
from feature_store.stores.redis_address import RedisAddress

LOCK_MILLISECONDS = 30_000  # how long a killed writer blocks others; renewed after a third of it
_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 120
# Renewing or releasing must not change the lock of another writer.
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


@contextmanager
def redis_errors_as_data_errors(address: RedisAddress) -> Iterator[None]:
    """Turn Redis's errors into DataError, without the password."""
    try:
        yield
    except redis.RedisError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        for secret in filter(None, (address.password,)):
            reason = reason.replace(secret, "***")
        fix = "check that it runs there and can be reached"
        if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
            fix = "check user and password in the address: redis://USER:PASSWORD@HOST"
        elif isinstance(error, redis.OutOfMemoryError):
            fix = "raise its maxmemory and run again: all committed steps are kept"
        elif isinstance(error, redis.ResponseError):
            fix = "fix the server's state and run again"
        # The cause is left out, since a traceback could show the password.
        raise DataError(f"{address.public}: Redis at {address.server}: {reason}; {fix}") from None


def connect(address: RedisAddress) -> Any:  # redis-py types every result as possibly awaitable
    """Create a client, which connects at its first command."""
    return redis.Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        username=address.user,
        password=address.password,
        ssl=address.tls,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),  # a transaction that may have been applied is never sent twice
    )


def key_of(address: RedisAddress, part: str) -> str:
    """Return the key of one part of a store."""
    return f"rm-rec:{address.name}:{part}"


def check_eviction_policy(client: Any, address: RedisAddress) -> None:
    """Raise DataError if the server silently drops keys, and so whole buckets, when its memory is full."""
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise DataError(
            f"{address.public}: Redis at {address.server} drops keys, and so memories, when it is "
            f"full (maxmemory-policy {policy}); set maxmemory-policy noeviction"
        )


@final
class WriterLock:
    """The writer's lock, renewed while the writer runs; it expires after the writer is killed."""

    def __init__(self, client: Any, address: RedisAddress) -> None:
        self._client, self._address = client, address
        self.key, self.token = key_of(address, "writer"), secrets.token_hex(16).encode()
        # Renewing changes the key that a transaction watches, so the two must not run at once.
        self._guard = threading.Lock()
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="rm-rec writer's lock", daemon=True)

    def __enter__(self) -> "WriterLock":
        with redis_errors_as_data_errors(self._address):
            if not self._client.set(self.key, self.token, nx=True, px=LOCK_MILLISECONDS):
                left = max(self._client.pttl(self.key), 0) / 1000
                raise LockedError(
                    f"{self._address.public}: another process is writing to it; wait for it, or, if it was killed, "
                    f"run again in {left:.0f} seconds"
                )
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._renewing.join()
        with suppress(redis.RedisError):  # it expires by itself
            self._client.eval(_RELEASE, 1, self.key, self.token)

    def _renew(self) -> None:
        while not self._released.wait(LOCK_MILLISECONDS / 3000):
            # If this fails, the next write reports that the lock, or the connection, is lost.
            with self._guard, suppress(redis.RedisError):
                self._client.eval(_RENEW, 1, self.key, self.token, LOCK_MILLISECONDS)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Collect commands that are applied in one transaction, and only if this writer still has the lock."""
        lost = LockedError(
            f"{self._address.public}: this writer lost its lock, and another may be writing; the last step was not "
            "committed: run again"
        )
        with (
            redis_errors_as_data_errors(self._address),
            self._guard,
            self._client.pipeline(transaction=True) as pipeline,
        ):
            pipeline.watch(self.key)
            if pipeline.get(self.key) != self.token:
                raise lost
            pipeline.multi()
            yield pipeline
            pipeline.pexpire(self.key, LOCK_MILLISECONDS)
            try:
                pipeline.execute()
            except redis.WatchError as error:
                if isinstance(error.__context__, redis.ConnectionError | redis.TimeoutError):
                    raise error.__context__ from None
                raise lost from None
