"""What `memories` prints and copies of a state's integers: digit by digit, in their own type."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feature_store.stores import Build, Journal, MemorySchema, StoreFacts, create_store, make_memories, open_store
from pipelines import memories

SCHEMA = MemorySchema(
    state={"sum": (2,), "seen": (2, 2), "print": ()},
    types={"seen": "int32", "print": "int64"},
    window_events=0,
    features=("item",),
    user_type="int64",
)
LARGE = 1_234_567_890_123_456_789


@pytest.fixture
def address(tmp_path: Path) -> str:
    state = {"sum": np.array([[0.5, 2]]), "seen": np.array([[[-7, 3], [4, 123_456_789]]]), "print": np.array([LARGE])}
    window = dict.fromkeys(("time", "time_gap", "item"), np.zeros((1, 0), int))
    facts = StoreFacts(space_id="space", memory=SCHEMA, num_buckets=1)
    with create_store(f"lmdb:{tmp_path / 'store'}", facts) as store, store.writer() as writer:
        writer.write(0, make_memories(SCHEMA, pa.array([42]), state, [9], [3], [0], window), Journal())
        writer.finish(Journal(builds=(Build(id="first"),)))
    return f"lmdb:{tmp_path / 'store'}"


def test_inspect_names_the_types_and_rounds_no_integer(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert memories.main(["inspect", "--memories", address]) == 0
    assert "sum 2, seen 2x2 int32, print 1 int64 (float16)" in capsys.readouterr().out
    assert memories.main(["inspect", "--memories", address, "--user", "42"]) == 0
    told = capsys.readouterr().out
    assert "0.5 to 2, mean 1.25" in told
    assert "-7 to 123456789, mean 3.086e+07" in told
    assert f"{LARGE} to {LARGE}, mean 1.235e+18" in told


def test_copy_to_another_precision_leaves_integers_alone(address: str, tmp_path: Path) -> None:
    target = f"parquet:{tmp_path / 'copied'}"
    assert memories.main(["copy", "--memories", address, "--to", target, "--dtype", "float32"]) == 0
    with open_store(target) as store:
        assert (store.facts.memory.dtype, store.facts.memory.types) == ("float32", SCHEMA.types)
        state = store.get(pa.array([42]))[0].state()
    assert state["seen"].dtype == np.int32
    assert state["seen"].tolist() == [[[-7, 3], [4, 123_456_789]]]
    assert state["print"].tolist() == [LARGE]
