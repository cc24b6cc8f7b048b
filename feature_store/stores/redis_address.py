"""Addresses of stores in Redis: `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?name=NAME]`, `rediss://` for TLS."""

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from feature_store.errors import DataError

SCHEMES = ("redis", "rediss")
_PORT, _NAME = 6379, "memories"
_EXPECTED = "redis://HOST:PORT/DB?name=NAME, with a name of letters, digits, '.', '_' and '-'"


@dataclass(frozen=True)
class RedisAddress:
    """The address of a store in Redis: server, database and name; the password is never shown."""

    host: str
    port: int
    database: int
    name: str
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, address: str) -> Self:
        """Parse an address.

        Raises:
            DataError: it is not valid; the message does not quote it, since a part may be a password.

        >>> RedisAddress.parse("redis://:secret@cache/2?name=night").public
        'redis://cache:6379/2?name=night'
        """
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port or _PORT
            query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            (name,) = query.pop("name", [_NAME])
            database = int(parts.path.strip("/") or 0)
        except ValueError:
            raise DataError(f"the address of a store in Redis is not valid; expected {_EXPECTED}") from None
        if parts.scheme not in SCHEMES or not host or query or parts.fragment or database < 0:
            raise DataError(f"the address of a store in Redis is not valid; expected {_EXPECTED}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise DataError(f"{name!r} is not a valid name of a store in Redis; expected {_EXPECTED}")
        return cls(
            host=host,
            port=port,
            database=database,
            name=name,
            tls=parts.scheme == "rediss",
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    @property
    def server(self) -> str:
        """The host and port."""
        return f"{self.host}:{self.port}"

    def renamed(self, name: str) -> str:
        """Return the address, with password, of a store with another name on the same server."""
        login = ""
        if self.user is not None or self.password is not None:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password or '', safe='')}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEMES[self.tls]}://{login}{host}:{self.port}/{self.database}?name={name}"

    @property
    def public(self) -> str:
        """The address without user and password."""
        return replace(self, user=None, password=None).renamed(self.name)
