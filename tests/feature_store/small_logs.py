"""Small logs, and how to compare what is made of them."""

import numpy as np
import pyarrow as pa

from feature_store.sequences.user_sequences import UserSequences


def silent(line: str) -> None:
    """Report to nobody."""


def random_log(seed: int = 0, users: int = 12, events: int = 40, items: int = 15) -> pa.Table:
    """Users 100…, items 300…, times with ties, a category that belongs to the item, an action, a 0/1 label."""
    draw = np.random.default_rng(seed)
    size = users * events
    item = draw.integers(0, items, size)
    table = pa.table(
        {
            "user_id": 100 + np.repeat(np.arange(users), events),
            "item_id": 300 + item,
            "timestamp": draw.integers(0, 2 * events, size),
            "category": item % 4,
            "action": pa.array(np.array(["view", "buy", "save"])[draw.integers(0, 3, size)]),
            "clicked": draw.integers(0, 2, size),
            "position": draw.integers(0, 5, size),
            "price": draw.random(size).astype(np.float32),
        }
    )
    return table.take(pa.array(draw.permutation(size)))


def by_user(sequences: list[UserSequences]) -> dict[str, UserSequences]:
    """Take sequences apart: the user's id as text -> the sequences of that user alone."""
    return {
        str(user): part.select(np.array([place]), None, trim=False)
        for part in sequences
        for place, user in enumerate(part.users.to_pylist())
    }


def arrays(sequences: UserSequences) -> dict[str, np.ndarray]:
    """Flatten sequences to named arrays, for comparing."""
    flat = {
        name: getattr(sequences, name)
        for name in ("event_offsets", "event_time", "impression_offsets", "impression_time", "num_earlier", "split")
    }
    flat |= {"label": sequences.label, "dense": sequences.context_dense}
    for group in ("events", "targets", "context", "carried"):
        flat |= {f"{group}:{name}": values for name, values in getattr(sequences, group).items()}
    return flat


def assert_equal(ours: UserSequences, theirs: UserSequences) -> None:
    """Compare everything but the ids."""
    left, right = arrays(ours), arrays(theirs)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
