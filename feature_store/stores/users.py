"""Users' ids: their type, their text, the bucket each lies in, and what is kept of one that was deleted."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.errors import DataError

UserType = Literal["int64", "string"]
_ARROW = {"int64": pa.int64(), "string": pa.string()}


def typed(users: pa.Array | pa.ChunkedArray, user_type: UserType, where: str) -> pa.Array:
    """Bring ids [users] to a store's type: integers of any width to int64, text of any kind to string; nulls stay.

    Raises:
        DataError: integers where the store has text, or the other way round: none would be found.
    """
    if isinstance(users, pa.ChunkedArray):
        users = pa.concat_arrays(users.chunks) if users.num_chunks else pa.array([], users.type)
    if pa.types.is_dictionary(users.type):
        users = users.dictionary_decode()
    kind, wanted = users.type, _ARROW[user_type]
    alike = pa.types.is_integer if user_type == "int64" else _is_text
    if not alike(kind) and users.null_count != len(users):
        raise DataError(f"{where}: its users are {user_type}, these are {kind}; cast the column of users")
    try:
        return users.cast(wanted)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: a user's id does not fit {user_type} ({str(error).splitlines()[0]}); use text"
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def texts(users: pa.Array) -> list[bytes]:
    """Write ids, none of them null, as UTF-8 text: what buckets, checksums, tombstones and keys are made of.

    >>> texts(pa.array([-5, 7])), texts(pa.array(["é"]))
    ([b'-5', b'7'], [b'\\xc3\\xa9'])
    """
    written: list[bytes] = users.cast(pa.string()).cast(pa.binary()).to_pylist()
    return written


def from_texts(written: Iterable[bytes], user_type: UserType) -> pa.Array:
    """Read ids back from their texts."""
    text = [user.decode() for user in written]
    return pa.array(map(int, text) if user_type == "int64" else text, _ARROW[user_type])


def no_users(user_type: UserType) -> pa.Array:
    """Make an empty column of ids."""
    return pa.array([], _ARROW[user_type])


def bucket_of(users: pa.Array, num_buckets: int) -> NDArray[np.int64]:
    """Name the bucket of each user [users], by the hash that a prepared log uses (`bucketing.BUCKET_HASH`).

    The last 8 bytes of the MD5 of the id as text, little-endian, modulo `num_buckets`. The ids of a bucket of a log
    prepared in as many buckets therefore lie in the bucket of the same number.

    >>> bucket_of(pa.array([1, 2, 3]), num_buckets=4).tolist()
    [1, 3, 0]
    """
    lower = b"".join(hashlib.md5(text, usedforsecurity=False).digest()[8:] for text in texts(users))
    return (np.frombuffer(lower, "<u8") % np.uint64(num_buckets)).astype(np.int64)


def tombstones_of(users: pa.Array) -> list[bytes]:
    """Hash each id to the 16 bytes that are kept when its user is deleted: the first of its text's SHA-256.

    The id itself is not kept, but whoever can list all possible ids can find it again.
    """
    return [hashlib.sha256(text).digest()[:16] for text in texts(users)]
