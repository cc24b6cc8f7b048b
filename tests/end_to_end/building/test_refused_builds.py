"""What cannot be built is refused in one line, and nothing is lost by it."""

import json
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pytest

from feature_store.errors import DataError
from feature_store.stores import open_store
from pipelines.errors import ModelError
from pipelines.runs.run_folder import held
from tests.end_to_end.building.builds import WRITE, NewStore, arguments, counts, left_behind
from tests.support.fakes import model_config
from tests.support.nights import LABELLED, assert_same, build, contents, journal, random_log, train, write
from tests.support.small_runs import Kill, one_line, run_forked
from tests.support.stores import STORES


@pytest.mark.parametrize("kind", STORES)
def test_a_second_writer_is_refused(model: Path, tmp_path: Path, kind: str, new_store: NewStore) -> None:
    address, log = new_store(kind, tmp_path / "memories"), random_log()
    build(model, address, write(log.slice(0, 100), tmp_path / "a.parquet"), tmp_path / "out")
    path = write(log.slice(100), tmp_path / "b.parquet")
    before = contents(address)
    with open_store(address) as store, store.writer():
        ended = run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, path, tmp_path / "other"))
    assert "another process is writing to it" in one_line(ended)
    assert contents(address).keys() == before.keys()
    build(model, address, path, tmp_path / "other")
    assert counts(address)["events"] == 240


def test_two_builds_in_one_folder_are_refused(model: Path, tmp_path: Path) -> None:
    path = write(random_log(), tmp_path / "a.parquet")
    with held(tmp_path / "out"):
        argv = arguments(model, str(tmp_path / "memories"), path, tmp_path / "out")
        line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    assert line == f"error: {tmp_path / 'out'}: another process is at work here; wait for it, or give another --out"
    assert not (tmp_path / "memories").exists()


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_a_full_disk_is_one_line_and_no_loss(
    model: Path, tmp_path: Path, kind: str, two_nights: Callable[[str], tuple[str, Path]]
) -> None:
    """A limit on the size of files stands in for a full disk: at each size something else cannot be written."""
    address, _ = two_nights(f"{kind}:{tmp_path / 'memories'}")
    expected, _ = two_nights(f"{kind}:{tmp_path / 'expected'}")
    second = write(random_log(seed=2, events=3000, users=300).set_column(
        2, "timestamp", pa.array(np.arange(3000) + 10_000)), tmp_path / "big.parquet")  # fmt: skip
    before = contents(address)
    largest = max(path.stat().st_size for path in (tmp_path / "memories").rglob("*") if path.is_file())
    argv = arguments(model, address, second, tmp_path / "out")
    said = []
    for limit in (3_000, None, 1_000, largest + 4_096, largest + 20_000, largest + 100_000):
        if limit is None:  # from here on the log is sorted, and it is the store that has no room
            assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=Kill(WRITE)).returncode == -9
            continue
        ended = run_forked(tmp_path, "pipelines.build_memory", *argv, largest_file=limit)
        if ended.returncode == 0:
            break
        line = one_line(ended)
        # LMDB takes a page that was written in part for a fault of the disk.
        assert "File too large" in line or f"{address}: Input/output error; the disk is failing or full" in line
        said.append(line)
        assert before.keys() <= contents(address).keys()
    build(model, address, second, tmp_path / "out", "--dtype", "float32")
    build(model, expected, second, tmp_path / "out-expected", "--dtype", "float32")
    assert_same(contents(address), contents(expected), atol=1e-6)
    assert journal(address) == journal(expected)
    assert left_behind(tmp_path / "out") == []
    assert said[0].startswith(f"error: {tmp_path / 'out'}/building-")
    assert any(line.startswith(f"error: {address}: ") for line in said)


def test_a_damaged_record_is_named(model: Path, tmp_path: Path) -> None:
    log = random_log()
    address = str(tmp_path / "memories")
    build(model, address, write(log.slice(0, 120), tmp_path / "a.parquet"), tmp_path / "out")
    user = log["user_id"][-1].as_py()
    with lmdb.open(address, max_dbs=3, map_size=1 << 30) as environment:
        records = environment.open_db(b"records", create=False)
        with environment.begin(write=True, db=records) as transaction:
            ((key, value),) = [pair for pair in transaction.cursor() if bytes(pair[0]).endswith(str(user).encode())]
            transaction.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    path = write(log.slice(120), tmp_path / "b.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *arguments(model, address, path, tmp_path / "out")))
    assert f"memory of user {user} is damaged (checksum " in line
    assert "rebuild it with `python -m pipelines.build_memory` in a new store, or restore a copy of this one" in line
    candidates = write(
        log.slice(120).select(["user_id", "item_id", "position", "price", "age"]), tmp_path / "c.parquet"
    )
    argv = ["--model", model, "--memories", address, "--candidates", candidates, "--out", tmp_path / "s.parquet"]
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv))
    assert f"memory of user {user} is damaged (checksum " in line
    assert not (tmp_path / "s.parquet").exists()


def test_a_model_of_another_space_is_refused(model: Path, tmp_path: Path) -> None:
    log = random_log(seed=9, items=10)
    path = write(log, tmp_path / "log.parquet")
    address = str(tmp_path / "memories")
    build(model, address, path, tmp_path / "out")
    other = train(log, tmp_path / "other", LABELLED, seed=5)
    argv = arguments(tmp_path / "other" / "model", address, path, tmp_path / "out")
    line = one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    built = json.loads((model / "model.json").read_text())["memory_space"]
    assert line == (
        f"error: lmdb:{address}: its memories were built in space {built}, model {tmp_path / 'other' / 'model'} is in "
        f"{other.card.memory_space}; build its own: python -m pipelines.build_memory --model "
        f"{tmp_path / 'other' / 'model'} --memories NEW_STORE --log LOG"
    )
    forgetful = train(
        log, tmp_path / "none", LABELLED, config=model_config(machine="none", window={"kind": "whole_history"})
    )
    assert forgetful.card.memory_space is None
    with pytest.raises(ModelError, match="its window is the whole history; build its own"):
        build(tmp_path / "none" / "model", address, path, tmp_path / "out")
    with pytest.raises(ModelError, match="its window is the whole history; there is no memory of fixed size to build"):
        build(tmp_path / "none" / "model", tmp_path / "new", path, tmp_path / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["action"]), "no column 'action'"),
        (lambda t: t.drop_columns(["user_id"]), "no column 'user_id'"),
        (lambda t: t.set_column(0, "user_id", t["user_id"].cast(pa.float64())), "column 'user_id' holds floats"),
        (lambda t: t.set_column(0, "user_id", pa.nulls(240)), "column 'user_id' holds only nulls"),
        (lambda t: t.set_column(2, "timestamp", t["timestamp"].cast(pa.string())), "column 'timestamp' holds strings"),
    ],
)
def test_a_log_that_is_refused_makes_no_store(
    model: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    path = write(change(random_log()), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=said) as caught:
        build(model, tmp_path / "memories", path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "memories").exists()


def test_what_is_wrong_is_one_line(model: Path, tmp_path: Path) -> None:
    log = random_log()
    path = write(log, tmp_path / "log.parquet")
    build(model, tmp_path / "memories", path, tmp_path / "out")
    text = write(
        log.slice(5).set_column(0, "user_id", log["user_id"].slice(5).cast(pa.string())), tmp_path / "t.parquet"
    )
    for log_path, store, out, wrong in (
        (tmp_path / "nothing.parquet", tmp_path / "memories", tmp_path / "out", "no such file or folder"),
        (text, tmp_path / "memories", tmp_path / "out", "its user ids are int64, the given ones are string"),
        (path, "nonsense://x", tmp_path / "out", "is not the address of a store; expected lmdb:PATH"),
        (path, tmp_path / "out", tmp_path / "out-2", "there is something here already"),
        (path, tmp_path / "memories", path, "File exists; name a path that can be written"),
    ):
        argv = arguments(model, str(store), log_path, out)
        assert wrong in one_line(run_forked(tmp_path, "pipelines.build_memory", *argv))
    argv = arguments(tmp_path, str(tmp_path / "memories"), path, tmp_path / "out")
    assert "is not a model: it has no model.safetensors" in one_line(
        run_forked(tmp_path, "pipelines.build_memory", *argv)
    )
    assert counts(str(tmp_path / "memories"))["events"] == 240
