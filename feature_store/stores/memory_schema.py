"""The schema of a stored memory: the fields of one user's record, their shapes and types."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from feature_store.stores.users import UserType
from rm_rec.config.base import Settings

Dtype = Literal["float16", "float32"]
PartType = Literal["float16", "float32", "int8", "uint8", "int16", "int32", "int64"]
CHECKSUM, STATE, WINDOW = "checksum", "state.", "window."
TIME, TIME_GAP = "time", "time_gap"  # in every window, beside its features


class MemorySchema(Settings):
    """The fields of one user's record, with their shapes and types.

    >>> schema = MemorySchema(state={"sum": (31, 32), "count": (31,)}, exact=("count",), window_events=63,
    ...     features=("item",), user_type="int64")
    >>> schema.bytes_per_user
    2949
    """

    state: dict[str, tuple[int, ...]]
    """Shape of each part of one user's state, by name."""
    exact: tuple[str, ...] = ()
    """Names of the parts stored as float32 whatever `dtype` is: counts and sums that grow."""
    types: dict[str, PartType] = Field(default_factory=dict)
    """Types of the parts that have their own, whatever `dtype` is: integers, such as counts and fingerprints."""
    dtype: Dtype = "float16"
    """Type of all other parts of the state."""
    window_events: int = Field(ge=0, le=65_535)
    """Capacity of the recent window, in events."""
    features: tuple[str, ...]
    """Categorical features of an event, stored as rows of their embedding tables."""
    user_type: UserType
    """Type of the users' ids."""

    @model_validator(mode="after")
    def _names_are_valid(self) -> Self:
        for name, shape in self.state.items():
            if not name.isidentifier():
                raise ValueError(f"a part of the state is called {name!r}; use letters, digits and underscores")
            if any(size < 1 for size in shape):
                raise ValueError(f"state {name!r} has shape {shape}; every size must be at least 1")
        unknown = set(self.exact) - set(self.state)
        if unknown:
            raise ValueError(f"exact names {sorted(unknown)}, but the state has {sorted(self.state)}")
        unknown = set(self.types) - set(self.state)
        if unknown:
            raise ValueError(f"types names {sorted(unknown)}, but the state has {sorted(self.state)}")
        twice = set(self.types) & set(self.exact)
        if twice:
            raise ValueError(f"both exact and types name {sorted(twice)}; exact means float32: leave one of them out")
        for name in self.features:
            if not name or not name.isprintable():
                raise ValueError(f"a feature is called {name!r}; use a name of printable characters")
            if name in (TIME, TIME_GAP):
                raise ValueError(f"a feature cannot be called {name!r}, which every window has: rename the column")
        if len(set(self.features)) < len(self.features):
            raise ValueError(f"a feature is listed twice in {self.features}; list each once")
        return self

    def type_of(self, part: str) -> PartType:
        """Return the type that a part of the state is stored in.

        >>> schema = MemorySchema(state={"sum": (2,), "seen": (8,)}, types={"seen": "int32"}, window_events=0,
        ...     features=(), user_type="int64")
        >>> schema.type_of("sum"), schema.type_of("seen")
        ('float16', 'int32')
        """
        return "float32" if part in self.exact else self.types.get(part, self.dtype)

    @property
    def record_dtype(self) -> np.dtype[np.void]:
        """The structured type of one user's record, packed and little-endian; unused parts of the window are zero."""
        fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
            (CHECKSUM, "<u4"),
            ("last_time", "<i8"),
            ("num_events", "<i8"),
            ("num_window", "<u2"),
        ]
        kinds = {name: np.dtype(self.type_of(name)).newbyteorder("<").str for name in self.state}
        fields += [(STATE + name, kinds[name], shape) for name, shape in self.state.items()]
        fields += [(WINDOW + name, kind, (self.window_events,)) for name, kind in self.window_kinds.items()]
        return np.dtype(fields)

    @property
    def window_kinds(self) -> dict[str, str]:
        """The parts of the window: name -> type of an element."""
        return {TIME: "<i8", TIME_GAP: "|u1", **dict.fromkeys(self.features, "<i4")}

    def of_dtype(self, dtype: Dtype | None) -> "MemorySchema":
        """Return the schema with another type for the parts that have none of their own; None changes nothing."""
        return self if dtype is None else self.model_copy(update={"dtype": dtype})

    @property
    def bytes_per_user(self) -> int:
        """Size of one user's record in bytes."""
        return self.record_dtype.itemsize
