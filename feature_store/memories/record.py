"""One user's memory at rest: a record of fixed size with the state, the recent window, and a checksum.

A record is a packed little-endian NumPy structure with flat names: "checksum", "last_time", "num_events",
"num_window", then "state.NAME", then "window.time", "window.time_gap" and "window.FEATURE". Suffix: U user.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from feature_store.errors import DataError
from feature_store.memories.users import UserType, no_users, texts, typed
from feature_store.schema import Strict

Dtype = Literal["float16", "float32"]
Records = NDArray[Any]  # structured, see MemorySchema.record_dtype
CHECKSUM, STATE, WINDOW = "checksum", "state.", "window."
TIME, TIME_GAP = "time", "time_gap"  # what every window has, beside its features
_CHECKSUM_BYTES = 4  # it lies first in the record
REBUILD = "rebuild it with `python -m pipelines.build_memory` in a new store, or restore a copy of this one"


class MemorySchema(Strict):
    """What one user's record holds.

    >>> schema = MemorySchema(state={"sum": (31, 32), "count": (31,)}, exact=("count",), window_events=63,
    ...     features=("item",), user_type="int64")
    >>> schema.bytes_per_user
    2949
    """

    state: dict[str, tuple[int, ...]]
    """Name -> shape of one user's part of the state."""
    exact: tuple[str, ...] = ()
    """Parts that stay float32 whatever `dtype` is: counters."""
    dtype: Dtype = "float16"
    """How the other parts are kept."""
    window_events: int = Field(ge=0, le=65_535)
    """Capacity of the recent window."""
    features: tuple[str, ...]
    """Categorical features of an event, kept as embedding rows."""
    user_type: UserType
    """Type of the users' ids."""

    @model_validator(mode="after")
    def _names_are_clean(self) -> Self:
        for name, shape in self.state.items():
            if not name.isidentifier():
                raise ValueError(f"a part of the state is called {name!r}; use letters, digits and underscores")
            if any(size < 1 for size in shape):
                raise ValueError(f"state {name!r} has shape {shape}; every size must be at least 1")
        unknown = set(self.exact) - set(self.state)
        if unknown:
            raise ValueError(f"exact names {sorted(unknown)}, but the state has {sorted(self.state)}")
        for name in self.features:
            if not name or not name.isprintable():
                raise ValueError(f"a feature is called {name!r}; use a name of printable characters")
            if name in (TIME, TIME_GAP):
                raise ValueError(f"a feature cannot be called {name!r}, which every window has: rename the column")
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"features {self.features} name one twice")
        return self

    @property
    def record_dtype(self) -> np.dtype[np.void]:
        """The structure of one user's record, packed and little-endian; places not used in the window are zero."""
        half = "<f2" if self.dtype == "float16" else "<f4"
        fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
            (CHECKSUM, "<u4"),
            ("last_time", "<i8"),
            ("num_events", "<i8"),
            ("num_window", "<u2"),
        ]
        fields += [(STATE + name, "<f4" if name in self.exact else half, shape) for name, shape in self.state.items()]
        fields += [(WINDOW + name, kind, (self.window_events,)) for name, kind in self.window_kinds.items()]
        return np.dtype(fields)

    @property
    def window_kinds(self) -> dict[str, str]:
        """The window's parts and how each is kept: name -> type of an element."""
        return {TIME: "<i8", TIME_GAP: "|u1", **dict.fromkeys(self.features, "<i4")}

    def of_dtype(self, dtype: Dtype | None) -> "MemorySchema":
        """The same, with states kept in another precision; None changes nothing."""
        return self if dtype is None else self.model_copy(update={"dtype": dtype})

    @property
    def bytes_per_user(self) -> int:
        """Size of one user's record."""
        return self.record_dtype.itemsize


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

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Give the state's parts as float32, name -> [U, ...]."""
        return {name: values.astype(np.float32) for name, values in self._parts(STATE).items()}

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
    state: Mapping[str, NDArray[np.float32]],
    last_time: ArrayLike,
    num_events: ArrayLike,
    num_window: ArrayLike,
    window: Mapping[str, ArrayLike],
) -> Memories:
    """Put float32 states [U, ...] and windows [U, W] into sealed records; of a window the first `num_window` count.

    Raises:
        DataError: parts or shapes that are not the schema's; a state that is not finite or overflows float16, a null
            user, or a number that its place cannot hold: the user is named.
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
        _put_state(records, name, np.asarray(values), users)
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
    """Put integers into a field; one that it cannot hold is an error, never wrapped."""
    given, place = np.asarray(values), records[field]
    if given.shape != place.shape:
        raise DataError(f"memories: {field} has shape {given.shape}, expected {place.shape}")
    limits = np.iinfo(place.dtype)
    wrong = (given < limits.min) | (given > limits.max)
    if wrong.any():
        first = np.flatnonzero(wrong.reshape(len(users), -1).any(axis=1))[0]
        raise DataError(
            f"memories: {field} of user {shown(users, first)} has {given[wrong].flat[0]}, which does not fit "
            f"{limits.min}..{limits.max}"
        )
    place[...] = given


def _put_state(records: Records, name: str, values: NDArray[Any], users: pa.Array) -> None:
    place = records[STATE + name]
    if values.shape != place.shape:
        raise DataError(f"memories: state {name!r} has shape {values.shape}, expected {place.shape}")
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
                f"memories: state {name!r} of user {user} reaches {largest:g}, which overflows {place.dtype} (at most "
                f"{np.finfo(place.dtype).max:g}); build with --dtype float32"
            )
        raise DataError(
            f"memories: state {name!r} of user {user} is not finite ({largest}); the model's weights are not sound: "
            "train again with a lower learning rate"
        )
