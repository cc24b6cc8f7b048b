"""Schemas of memories, drawn by hypothesis."""

from typing import get_args

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feature_store.stores import MemorySchema, PartType

STATE_NAMES = st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), max_size=3, unique=True)
FEATURES = st.lists(
    st.text(min_size=1, max_size=5).filter(lambda name: name.isprintable() and name not in ("time", "time_gap")),
    max_size=3,
    unique=True,
)


@st.composite
def schemas(draw: st.DrawFn) -> MemorySchema:
    names = draw(STATE_NAMES)
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3), min_size=len(names), max_size=3))
    return MemorySchema(
        state=dict(zip(names, shapes, strict=False)),
        exact=tuple(names[:1]),
        types={name: draw(st.sampled_from(get_args(PartType))) for name in names[1:2]},
        dtype=draw(st.sampled_from(["float16", "float32"])),
        window_events=draw(st.integers(0, 6)),
        features=tuple(draw(FEATURES)),
        user_type=draw(st.sampled_from(["int64", "string"])),
    )
