"""Users' ids: their type, their text, their bucket, and the tombstone stored for a deleted one."""

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
    """Cast ids [users] to a store's type: integers of any width to int64, text of any type to string; nulls stay null.

    Raises:
        DataError: the ids are integers and the store's are text, or the reverse; or an id does not fit the type.
    """
    if isinstance(users, pa.ChunkedArray):
        users = pa.concat_arrays(users.chunks) if users.num_chunks else pa.array([], users.type)
    if pa.types.is_dictionary(users.type):
        users = users.dictionary_decode()
    given, expected = users.type, _ARROW[user_type]
    is_allowed = pa.types.is_integer if user_type == "int64" else _is_text
    if not is_allowed(given) and users.null_count != len(users):
        raise DataError(f"{where}: its user ids are {user_type}, the given ones are {given}; cast the column of users")
    try:
        return users.cast(expected)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: a user id does not fit {user_type} ({str(error).splitlines()[0]}); use text ids"
        ) from error


def _is_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given))


def texts(users: pa.Array) -> list[bytes]:
    """Convert ids, none of them null, to UTF-8 text, from which buckets, checksums, tombstones and keys are computed.

    >>> texts(pa.array([-5, 7])), texts(pa.array(["é"]))
    ([b'-5', b'7'], [b'\\xc3\\xa9'])
    """
    result: list[bytes] = users.cast(pa.string()).cast(pa.binary()).to_pylist()
    return result


def from_texts(encoded: Iterable[bytes], user_type: UserType) -> pa.Array:
    """Convert UTF-8 texts back to ids."""
    decoded = [text.decode() for text in encoded]
    return pa.array(map(int, decoded) if user_type == "int64" else decoded, _ARROW[user_type])


def no_users(user_type: UserType) -> pa.Array:
    """Return an empty column of ids."""
    return pa.array([], _ARROW[user_type])


def bucket_of(users: pa.Array, num_buckets: int) -> NDArray[np.int64]:
    """Return the bucket of each user [users], by the hash that a prepared log uses (`bucketing.BUCKET_HASH`).

    The last 8 bytes of the MD5 of the id as text, little-endian, modulo `num_buckets`. So a store and a prepared log
    with as many buckets have the same users in each bucket.

    >>> bucket_of(pa.array([1, 2, 3]), num_buckets=4).tolist()
    [1, 3, 0]
    """
    lower = b"".join(hashlib.md5(text, usedforsecurity=False).digest()[8:] for text in texts(users))
    return (np.frombuffer(lower, "<u8") % np.uint64(num_buckets)).astype(np.int64)


def tombstones_of(users: pa.Array) -> list[bytes]:
    """Hash each id to the tombstone that is stored when its user is deleted: the first 16 bytes of its text's SHA-256.

    The id itself is not stored, but whoever can list all possible ids can find it by its hash.
    """
    return [hashlib.sha256(text).digest()[:16] for text in texts(users)]
