"""One user's memory at rest: a record of fixed size with the state, the recent window, and a checksum.

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
_CHECKSUM_BYTES = 4  # it lies first in the record
REBUILD = "rebuild it with `python -m pipelines.build_memory` in a new store, or restore a copy of this one"


@final
@dataclass(frozen=True, eq=False)
class Memories:
    """The records of some users; the checksums are right once they are sealed."""

    users: pa.Array  # [U] int64 or string
    records: Records  # [U]

    def __len__(self) -> int:
        return len(self.records)

    def select(self, indices: ArrayLike) -> "Memories":
        """Take some of the users, by place or by a mask."""
        places = np.arange(len(self))[np.asarray(indices)] if len(self) else np.zeros(0, np.int64)
        return Memories(self.users.take(pa.array(places)), self.records[places])

    @classmethod
    def concat(cls, parts: Sequence["Memories"]) -> "Memories":
        """Lay parts, at least one, one after the other."""
        return cls(pa.concat_arrays([part.users for part in parts]), np.concatenate([part.records for part in parts]))

    @classmethod
    def none(cls, schema: MemorySchema) -> "Memories":
        """Make the memories of no user."""
        return cls(no_users(schema.user_type), np.zeros(0, schema.record_dtype))

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the state's parts, name -> [U, ...]: floats as float32, integers in the type that they are kept in."""
        parts = self._parts(STATE).items()
        return {name: values.astype(np.float32 if values.dtype.kind == "f" else values.dtype) for name, values in parts}

    def window(self) -> dict[str, NDArray[Any]]:
        """Give the window's parts, name -> [U, W]: int64 "time", uint8 "time_gap", int32 for each feature."""
        return {name: values.copy() for name, values in self._parts(WINDOW).items()}

    def _parts(self, prefix: str) -> dict[str, NDArray[Any]]:
        names = self.records.dtype.names or ()
        return {name.removeprefix(prefix): self.records[name] for name in names if name.startswith(prefix)}

    def rows(self) -> list[memoryview]:
        """Give each record's bytes."""
        size = self.records.dtype.itemsize
        whole = np.ascontiguousarray(self.records).view(np.uint8).data
        return [whole[start : start + size] for start in range(0, len(self) * size, size)]

    @classmethod
    def from_rows(
        cls, schema: MemorySchema, users: pa.Array, rows: Sequence[bytes | memoryview], where: str
    ) -> "Memories":
        """Make memories of records' bytes; one of another size is a DataError that names the user."""
        size = schema.bytes_per_user
        wrong = next((place for place, row in enumerate(rows) if len(row) != size), None)
        if wrong is not None:
            raise DataError(
                f"{where}: memory of user {shown(users, wrong)} is damaged ({len(rows[wrong])} bytes, expected "
                f"{size}); {REBUILD}"
            )
        return cls(users, np.frombuffer(bytearray().join(rows), schema.record_dtype))


def shown(users: pa.Array, place: int) -> str:
    """Write one id as a message shows it: text in quotes, on one line."""
    return repr(users[int(place)].as_py())


def _checksums(memories: Memories) -> NDArray[np.uint32]:
    pairs = zip(texts(memories.users), memories.rows(), strict=True)
    # The user's id comes first, so that a record under another user's key is found too.
    sums = (zlib.crc32(row[_CHECKSUM_BYTES:], zlib.crc32(user)) for user, row in pairs)
    return np.fromiter(sums, np.uint32, len(memories))


def seal(memories: Memories) -> Memories:
    """Return the memories with their checksums set: CRC-32 of the user's id as text and of the rest of the record."""
    records = memories.records.copy()
    records[CHECKSUM] = _checksums(memories)
    return Memories(memories.users, records)


def check(memories: Memories, where: str) -> None:
    """Raise a DataError that names the users whose records are damaged, or lie under another user's key."""
    found = _checksums(memories)
    kept = memories.records[CHECKSUM]
    wrong = np.flatnonzero(found != kept)
    if len(wrong):
        first = wrong[0]
        others = f" and of {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        raise DataError(
            f"{where}: memory of user {shown(memories.users, first)}{others} is damaged (checksum {found[first]:08x}, "
            f"kept {kept[first]:08x}); {REBUILD}"
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
    """Put states [U, ...] and windows [U, W] into sealed records; of a window the first `num_window` count.

    A state's parts are float32, or integers of any width where the schema keeps integers.

    Raises:
        DataError: parts or shapes that are not the schema's, or floats for integers; a state that is not finite or
            overflows float16, a null user, or a number that its place cannot hold: the user is named.
    """
    where = "memories"
    users = typed(users, schema.user_type, where)
    if users.null_count:
        raise DataError(f"{where}: user {users.is_null().index(True).as_py()} (from 0) is null; leave it out")
    _expect_names("state", state, schema.state)
    _expect_names("window", window, schema.window_kinds)
    records = np.zeros(len(users), schema.record_dtype)
    _put(records, "last_time", last_time, users)
    _put(records, "num_events", num_events, users)
    _put(records, "num_window", num_window, users)
    too_many = np.flatnonzero(records["num_window"] > schema.window_events)
    if len(too_many):
        raise DataError(
            f"{where}: the window of user {shown(users, too_many[0])} has {records['num_window'][too_many[0]]} events, "
            f"its capacity is {schema.window_events}"
        )
    for name, values in state.items():
        if records[STATE + name].dtype.kind == "f":
            mend = "give the part the type float32" if name in schema.types else "build with --dtype float32"
            _put_floats(records, STATE + name, np.asarray(values), users, mend)
        else:
            _put(records, STATE + name, values, users)
    used = np.arange(schema.window_events) < records["num_window"][:, None]
    for name, events in window.items():
        values = np.asarray(events)
        if values.shape != used.shape:
            raise DataError(f"{where}: window {name!r} has shape {values.shape}, expected {used.shape}")
        _put(records, WINDOW + name, np.where(used, values, 0), users)
    return seal(Memories(users, records))


def _expect_names(what: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if set(given) != set(expected):
        raise DataError(f"memories: {what} has parts {sorted(given)}, the schema has {sorted(expected)}")


def _put(records: Records, field: str, values: ArrayLike, users: pa.Array) -> None:
    """Put integers into a field; one that it cannot hold is an error, never wrapped, and a float is never cut."""
    given, place = np.asarray(values), records[field]
    _expect_shape(field, given, place)
    if given.dtype.kind not in "iu" and given.size:  # a list of nothing has a type by chance
        raise DataError(f"memories: {_said(field)} is {given.dtype}, it is kept as {place.dtype}; give integers")
    limits = np.iinfo(place.dtype)
    wrong = (given < limits.min) | (given > limits.max)
    if wrong.any():
        first = np.flatnonzero(wrong.reshape(len(users), -1).any(axis=1))[0]
        raise DataError(
            f"memories: {_said(field)} of user {shown(users, first)} has {given[wrong].flat[0]}, which does not fit "
            f"{limits.min}..{limits.max}{'; give the part a wider type' if field.startswith(STATE) else ''}"
        )
    place[...] = given


def _said(field: str) -> str:
    """Name a record's field as a message does."""
    return f"state {field.removeprefix(STATE)!r}" if field.startswith(STATE) else field


def _expect_shape(field: str, given: NDArray[Any], place: NDArray[Any]) -> None:
    if given.shape != place.shape:
        raise DataError(f"memories: {_said(field)} has shape {given.shape}, expected {place.shape}")


def _put_floats(records: Records, field: str, values: NDArray[Any], users: pa.Array, mend: str) -> None:
    place = records[field]
    _expect_shape(field, values, place)
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        place[...] = values
    size = math.prod(place.shape[1:])
    wrong = ~np.isfinite(place).reshape(len(users), size).all(axis=1)
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        largest = np.abs(values[first]).max()
        user = shown(users, first)
        if np.isfinite(largest):
            raise DataError(
                f"memories: {_said(field)} of user {user} reaches {largest:g}, which overflows {place.dtype} (at most "
                f"{np.finfo(place.dtype).max:g}); {mend}"
            )
        raise DataError(
            f"memories: {_said(field)} of user {user} is not finite ({largest}); the model's weights are not sound: "
            "train again with a lower learning rate"
        )
