"""Hashes of ids that are the same in every run, machine and version, and for 5 and "5"."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

NULL_HASH = np.uint64(0x9E3779B97F4A7C15)
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def mix(values: Hashes) -> Hashes:
    """Mix the bits of 64-bit numbers, so that every input bit affects every output bit.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

    >>> [int(value) for value in mix(np.array([0, 1], np.uint64))]
    [0, 6238072747940578789]
    """
    x = np.asarray(values, np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


def stable_hash(ids: pa.Array | pa.ChunkedArray) -> Hashes:
    """Hash integer or string ids to 64 bits: FNV-1a over the UTF-8 text of each id, then `mix`; null has a fixed hash.

    >>> bool(stable_hash(pa.array([5]))[0] == stable_hash(pa.array(["5"]))[0])
    True
    """
    if isinstance(ids, pa.ChunkedArray):
        parts = [stable_hash(chunk) for chunk in ids.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    text = ids.cast(pa.large_string())
    buffers = text.buffers()
    ends = np.frombuffer(buffers[1], np.int64)[text.offset : text.offset + len(text) + 1] if len(text) else np.zeros(1)
    data = np.frombuffer(buffers[2] or b"", np.uint8)
    start, length = ends[:-1].astype(np.int64), np.diff(ends).astype(np.int64)
    hashes = np.full(len(text), _FNV_OFFSET)
    # One pass for each byte position, over the ids that are long enough.
    active = np.flatnonzero(length > 0)
    position = 0
    while len(active):
        hashes[active] = (hashes[active] ^ data[start[active] + position]) * _FNV_PRIME
        position += 1
        active = active[length[active] > position]
    hashes = mix(hashes)
    if text.null_count:
        hashes[text.is_null().to_numpy(zero_copy_only=False)] = NULL_HASH
    return hashes


def unit_interval(hashes: Hashes) -> NDArray[np.float64]:
    """Map 64-bit hashes to numbers in [0, 1)."""
    return np.asarray((hashes >> np.uint64(11)) * 2.0**-53, np.float64)
