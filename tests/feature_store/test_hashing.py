import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.hashing import NULL_HASH, mix, stable_hash, unit_interval

MASK = (1 << 64) - 1


def slow_hash(text: str) -> int:
    x = 0xCBF29CE484222325
    for byte in text.encode():
        x = ((x ^ byte) * 0x100000001B3) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.lists(st.text() | st.none()), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_strings_hash_as_the_slow_loop_says(texts: list[str | None], skip: int) -> None:
    ids = pa.array(texts, pa.string()).slice(skip)
    expected = [int(NULL_HASH) if text is None else slow_hash(text) for text in texts[skip:]]
    assert stable_hash(ids).tolist() == expected


def test_hashes_never_change() -> None:
    assert stable_hash(pa.array(["", "a", "user-17"])).tolist() == [
        17665956581633026203,
        198367012849983736,
        9010221644199825511,
    ]


def test_integers_hash_as_their_text_in_every_width_and_chunking() -> None:
    ids = [5, -3, 2**40]
    expected = [slow_hash(str(i)) for i in ids]
    assert stable_hash(pa.array(ids)).tolist() == expected
    assert stable_hash(pa.chunked_array([ids[:1], [], ids[1:]], pa.int64())).tolist() == expected
    assert stable_hash(pa.array([5], pa.int8())).tolist() == expected[:1]
    assert len(stable_hash(pa.chunked_array([], pa.int64()))) == 0


def test_unit_interval_is_even() -> None:
    draws = unit_interval(mix(np.arange(100_000, dtype=np.uint64)))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(np.bincount((draws * 10).astype(int), minlength=10) / 1e4 - 1).max() < 0.05
