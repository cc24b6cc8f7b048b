"""A connection to Redis: errors without the password, and a writer's lock that fences off whoever lost it."""

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

LOCK_MILLISECONDS = 30_000  # how long a killed writer keeps others out; renewed at a third of it
_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 120
# Renewing must not take a lock over from another writer.
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


@contextmanager
def redis_told(place: RedisAddress) -> Iterator[None]:
    """Turn Redis's errors into a DataError of one line, without the password."""
    try:
        yield
    except redis.RedisError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        for secret in filter(None, (place.password,)):
            reason = reason.replace(secret, "***")
        mend = "check that it runs there and may be reached"
        if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
            mend = "check user and password in the address: redis://USER:PASSWORD@HOST"
        elif isinstance(error, redis.OutOfMemoryError):
            mend = "raise its maxmemory and run again: the store is as its last committed step left it"
        elif isinstance(error, redis.ResponseError):
            mend = "mend the server's state and run again"
        # The cause is left out: a traceback would show what the client was called with.
        raise DataError(f"{place.public}: Redis at {place.server}: {reason}; {mend}") from None


def connect(place: RedisAddress) -> Any:  # redis types every answer as awaitable or not, which is of no use here
    """Make a client; it connects at its first command."""
    return redis.Redis(
        host=place.host,
        port=place.port,
        db=place.database,
        username=place.user,
        password=place.password,
        ssl=place.tls,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),  # a transaction that may have been applied is never sent twice
    )


def key_of(place: RedisAddress, what: str) -> str:
    """Name one of a store's keys."""
    return f"rm-rec:{place.name}:{what}"


def refuse_evicting(client: Any, place: RedisAddress) -> None:
    """Refuse a server that drops whole buckets, without a word, when its memory is full."""
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise DataError(
            f"{place.public}: Redis at {place.server} drops keys when it is full (maxmemory-policy {policy}), and "
            "memories with them; set maxmemory-policy noeviction"
        )


@final
class WriterLock:
    """The writer's lock: it ends by itself when the writer is killed, and is renewed while the writer lives."""

    def __init__(self, client: Any, place: RedisAddress) -> None:
        self._client, self._place = client, place
        self.key, self.token = key_of(place, "writer"), secrets.token_hex(16).encode()
        # Renewing touches the key that a transaction watches: never both at once.
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="rm-rec writer's lock", daemon=True)

    def __enter__(self) -> "WriterLock":
        with redis_told(self._place):
            if not self._client.set(self.key, self.token, nx=True, px=LOCK_MILLISECONDS):
                left = max(self._client.pttl(self.key), 0) / 1000
                raise LockedError(
                    f"{self._place.public}: another writer is at work; wait for it, or, if it was killed, run again "
                    f"in {left:.0f} seconds"
                )
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._renewing.join()
        with suppress(redis.RedisError):  # it ends by itself
            self._client.eval(_RELEASE, 1, self.key, self.token)

    def _renew(self) -> None:
        while not self._done.wait(LOCK_MILLISECONDS / 3000):
            # If this fails, the next write says that the lock is lost, or that the server is.
            with self._guard, suppress(redis.RedisError):
                self._client.eval(_RENEW, 1, self.key, self.token, LOCK_MILLISECONDS)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Gather commands that are applied all together, and only if the lock is still ours."""
        lost = LockedError(
            f"{self._place.public}: this writer lost its lock, and another may have taken over; what was not committed "
            "is not written: run again"
        )
        with redis_told(self._place), self._guard, self._client.pipeline(transaction=True) as pipeline:
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
