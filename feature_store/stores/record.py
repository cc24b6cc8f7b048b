"""One user's stored memory: a record of fixed size with the state, the recent window, and a checksum.

A record is a packed little-endian NumPy structure with flat names: "checksum", "last_time", "num_events",
"num_window", then "state.NAME", then "window.time", "window.time_gap" and "window.FEATURE". Suffix: U user.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from feature_store.errors import DataError
from feature_store.stores.memory_schema import CHECKSUM, STATE, WINDOW, MemorySchema
from feature_store.stores.users import no_users, texts, typed

Records = NDArray[Any]  # structured, see MemorySchema.record_dtype
_CHECKSUM_BYTES = 4  # it is the first field of the record
REBUILD = "rebuild it with `python -m pipelines.build_memory` in a new store, or restore a copy of this one"


@final
@dataclass(frozen=True, eq=False)
class Memories:
    """The records of some users; `seal` sets the checksums."""

    users: pa.Array  # [U] int64 or string
    records: Records  # [U]

    def __len__(self) -> int:
        return len(self.records)

    def select(self, indices: ArrayLike) -> "Memories":
        """Select some of the users, by indices or by a mask."""
        rows = np.arange(len(self))[np.asarray(indices)] if len(self) else np.zeros(0, np.int64)
        return Memories(self.users.take(pa.array(rows)), self.records[rows])

    @classmethod
    def concat(cls, parts: Sequence["Memories"]) -> "Memories":
        """Concatenate one or more parts."""
        return cls(pa.concat_arrays([part.users for part in parts]), np.concatenate([part.records for part in parts]))

    @classmethod
    def none(cls, schema: MemorySchema) -> "Memories":
        """Return memories of no users."""
        return cls(no_users(schema.user_type), np.zeros(0, schema.record_dtype))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the parts of the state, name -> [U, ...]: floats as float32, integers in their stored type."""
        parts = self._parts(STATE).items()
        return {name: values.astype(np.float32 if values.dtype.kind == "f" else values.dtype) for name, values in parts}

    def window(self) -> dict[str, NDArray[Any]]:
        """Return the parts of the window, name -> [U, W]: int64 "time", uint8 "time_gap", int32 for each feature."""
        return {name: values.copy() for name, values in self._parts(WINDOW).items()}

    def _parts(self, prefix: str) -> dict[str, NDArray[Any]]:
        names = self.records.dtype.names or ()
        return {name.removeprefix(prefix): self.records[name] for name in names if name.startswith(prefix)}

    def rows(self) -> list[memoryview]:
        """Return each record as bytes."""
        size = self.records.dtype.itemsize
        content = np.ascontiguousarray(self.records).view(np.uint8).data
        return [content[start : start + size] for start in range(0, len(self) * size, size)]

    @classmethod
    def from_rows(
        cls, schema: MemorySchema, users: pa.Array, rows: Sequence[bytes | memoryview], where: str
    ) -> "Memories":
        """Make memories from the bytes of records; raises DataError naming the user if one has another size."""
        size = schema.bytes_per_user
        wrong = next((index for index, row in enumerate(rows) if len(row) != size), None)
        if wrong is not None:
            raise DataError(
                f"{where}: memory of user {format_id(users, wrong)} is damaged ({len(rows[wrong])} bytes, expected "
                f"{size}); {REBUILD}"
            )
        return cls(users, np.frombuffer(bytearray().join(rows), schema.record_dtype))


def format_id(users: pa.Array, index: int) -> str:
    """Format one id for a message: text in quotes, on one line."""
    return repr(users[int(index)].as_py())


def _checksums(memories: Memories) -> NDArray[np.uint32]:
    pairs = zip(texts(memories.users), memories.rows(), strict=True)
    # The user's id is included, so that a record stored under another user's key is detected too.
    sums = (zlib.crc32(row[_CHECKSUM_BYTES:], zlib.crc32(user)) for user, row in pairs)
    return np.fromiter(sums, np.uint32, len(memories))


def seal(memories: Memories) -> Memories:
    """Return the memories with their checksums: the CRC-32 of the user's id as text and of the rest of the record."""
    records = memories.records.copy()
    records[CHECKSUM] = _checksums(memories)
    return Memories(memories.users, records)


def check(memories: Memories, where: str) -> None:
    """Raise DataError, naming the user, if a record is damaged or is stored under another user's key."""
    computed = _checksums(memories)
    stored = memories.records[CHECKSUM]
    wrong = np.flatnonzero(computed != stored)
    if len(wrong):
        first = wrong[0]
        others = f" and of {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        raise DataError(
            f"{where}: memory of user {format_id(memories.users, first)}{others} is damaged (checksum "
            f"{computed[first]:08x}, stored {stored[first]:08x}); {REBUILD}"
        )


def make_memories(
    schema: MemorySchema,
    users: pa.Array,
    state: Mapping[str, NDArray[Any]],
    last_time: ArrayLike,
    num_events: ArrayLike,
    num_window: ArrayLike,
    window: Mapping[str, ArrayLike],
) -> Memories:
    """Make records, with checksums, of states [U, ...] and windows [U, W]; a window's first `num_window` events count.

    Parts of a state are float32, or integers of any width where the schema has integers.

    Raises:
        DataError: parts or shapes differ from the schema's, or floats are given for integers; a state is not finite or
            overflows float16, a user is null, or a number does not fit its field: the message names the user.
    """
    where = "memories"
    users = typed(users, schema.user_type, where)
    if users.null_count:
        raise DataError(f"{where}: the id of user {users.is_null().index(True).as_py()} (from 0) is null; leave it out")
    _expect_names("state", state, schema.state)
    _expect_names("window", window, schema.window_kinds)
    records = np.zeros(len(users), schema.record_dtype)
    _put(records, "last_time", last_time, users)
    _put(records, "num_events", num_events, users)
    _put(records, "num_window", num_window, users)
    too_many = np.flatnonzero(records["num_window"] > schema.window_events)
    if len(too_many):
        raise DataError(
            f"{where}: the window of user {format_id(users, too_many[0])} has {records['num_window'][too_many[0]]} "
            f"events, its capacity is {schema.window_events}"
        )
    for name, values in state.items():
        if records[STATE + name].dtype.kind == "f":
            fix = "give the part the type float32" if name in schema.types else "build with --dtype float32"
            _put_floats(records, STATE + name, np.asarray(values), users, fix)
        else:
            _put(records, STATE + name, values, users)
    used = np.arange(schema.window_events) < records["num_window"][:, None]
    for name, events in window.items():
        values = np.asarray(events)
        if values.shape != used.shape:
            raise DataError(f"{where}: window {name!r} has shape {values.shape}, expected {used.shape}")
        _put(records, WINDOW + name, np.where(used, values, 0), users)
    return seal(Memories(users, records))


def _expect_names(block: str, parts: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if set(parts) != set(expected):
        raise DataError(f"memories: {block} has parts {sorted(parts)}, the schema has {sorted(expected)}")


def _put(records: Records, field: str, values: ArrayLike, users: pa.Array) -> None:
    """Store integers in a field; raises DataError for a float, or for an integer that does not fit."""
    given, target = np.asarray(values), records[field]
    _expect_shape(field, given, target)
    if given.dtype.kind not in "iu" and given.size:  # NumPy gives an empty list the type float64
        raise DataError(
            f"memories: {_field_label(field)} is {given.dtype}, but is stored as {target.dtype}; give integers"
        )
    limits = np.iinfo(target.dtype)
    wrong = (given < limits.min) | (given > limits.max)
    if wrong.any():
        first = np.flatnonzero(wrong.reshape(len(users), -1).any(axis=1))[0]
        raise DataError(
            f"memories: {_field_label(field)} of user {format_id(users, first)} has {given[wrong].flat[0]}, which does "
            f"not fit {limits.min}..{limits.max}{'; give the part a wider type' if field.startswith(STATE) else ''}"
        )
    target[...] = given


def _field_label(field: str) -> str:
    """Format a field's name for a message."""
    return f"state {field.removeprefix(STATE)!r}" if field.startswith(STATE) else field


def _expect_shape(field: str, given: NDArray[Any], target: NDArray[Any]) -> None:
    if given.shape != target.shape:
        raise DataError(f"memories: {_field_label(field)} has shape {given.shape}, expected {target.shape}")


def _put_floats(records: Records, field: str, values: NDArray[Any], users: pa.Array, fix: str) -> None:
    target = records[field]
    _expect_shape(field, values, target)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which raises an error below
        target[...] = values
    size = math.prod(target.shape[1:])
    wrong = ~np.isfinite(target).reshape(len(users), size).all(axis=1)
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        largest = np.abs(values[first]).max()
        user = format_id(users, first)
        if np.isfinite(largest):
            raise DataError(
                f"memories: {_field_label(field)} of user {user} reaches {largest:g}, which overflows "
                f"{target.dtype} (at most {np.finfo(target.dtype).max:g}); {fix}"
            )
        raise DataError(
            f"memories: {_field_label(field)} of user {user} is not finite ({largest}); train the model again "
            "with a lower learning rate"
        )
