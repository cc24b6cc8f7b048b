"""Looking after a store: what is printed is true, a copy is the store, who was deleted stays so."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from feature_store.errors import DataError
from feature_store.stores import open_store
from pipelines import memories
from pipelines.errors import SettingsError
from tests.support.nights import assert_same, build, contents, journal, random_log, train, write
from tests.support.small_runs import Kill, run_forked
from tests.support.stores import STORES

LOG = random_log(events=300)
USER = 103


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train(LOG, folder)
    return folder / "model"


@pytest.fixture
def store(model: Path, tmp_path: Path, new_store: Callable[[str, Path], str]) -> Callable[..., str]:
    """Build a store of a kind in two nights."""

    def built(kind: str = "lmdb") -> str:
        address = new_store(kind, tmp_path / f"{kind}-memories")
        for night in (LOG.slice(0, 200), LOG.slice(200)):
            path = write(night, tmp_path / "night.parquet")
            build(model, address, path, tmp_path / "out", "--dtype", "float32")
        return address

    return built


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the job, and return what it printed with its spaces and borders made one."""

    def run(*argv: object) -> str:
        capsys.readouterr()
        assert memories.main([*map(str, argv)]) == 0
        return " ".join(re.sub(r"[│┃|]", " ", capsys.readouterr().out).split())

    return run


@pytest.mark.parametrize("kind", STORES)
def test_inspect_tells_what_a_store_holds(store: Callable[..., str], said: Callable[..., str], kind: str) -> None:
    address = store(kind)
    users = len(LOG["user_id"].unique())
    told = said("inspect", "--memories", address)
    with open_store(address) as opened:
        facts, builds = opened.facts, opened.journal().builds
        assert told.startswith(f"Memories in {opened.address} ")
        expected = [
            f"memories {users:,}",
            "deleted users 0",
            f"memory space {facts.space_id}",
            "users' ids int64",
            "state sum 3x6, count 3 (float32)",
            "window 7 events of item, action, category",
            f"bytes per user {facts.memory.bytes_per_user:,}",
            "buckets 4",
        ]
        if kind != "redis":  # whose own estimate of memory changes
            expected.append(f"bytes on disk {opened.bytes_on_disk():,}")
    for words in expected:
        assert words in told
    assert [build.events for build in builds] == [200, 100]
    for build_done in builds:
        times = f"{build_done.first_time} {build_done.last_time}"
        assert f"{build_done.id} 1 {build_done.events} {build_done.users} 0 {times}" in told
    assert "interrupted" not in told


@pytest.mark.parametrize("kind", STORES)
def test_inspect_tells_what_is_held_of_a_user(store: Callable[..., str], said: Callable[..., str], kind: str) -> None:
    address = store(kind)
    record = contents(address)[USER]
    times = sorted(row["timestamp"] for row in LOG.to_pylist() if row["user_id"] == USER)
    told = said("inspect", "--memories", address, "--user", USER)
    assert f"Memory of user {USER}" in told
    assert f"events {len(times)} " in told
    assert f"last event {times[-1]} " in told
    kept = int(record["num_window"])
    assert f"in the window {kept} of 7" in told
    values = record["state.sum"]
    assert f"state sum {values.min():.4g} to {values.max():.4g}, mean {np.mean(values):.4g}" in told
    rows = told.partition("newest first")[2]
    columns = [record[f"window.{name}"] for name in ("time", "time_gap", "item", "action", "category")]
    for place in range(kept):
        assert " ".join(str(column[place]) for column in columns) in rows
    places = [rows.index(f" {time} ") for time in times[-kept:]]
    assert places == sorted(places, reverse=True)
    assert str(times[-kept - 1]) not in rows.split()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("target", ["lmdb", "parquet"])
def test_a_copy_is_the_store(
    store: Callable[..., str],
    said: Callable[..., str],
    tmp_path: Path,
    new_store: Callable[[str, Path], str],
    kind: str,
    target: str,
) -> None:
    address, other = store(kind), new_store(target, tmp_path / "copied")
    told = said("copy", "--memories", address, "--to", other)
    assert f"{len(contents(address))} memories, copied from" in told
    assert_same(contents(other), contents(address), atol=0)
    assert journal(other) == journal(address)
    half = new_store(target, tmp_path / "half")
    said("copy", "--memories", address, "--to", half, "--dtype", "float16")
    assert_same(contents(half), contents(address), atol=1e-2)
    with open_store(half) as opened:
        assert opened.facts.memory.dtype == "float16"
    with pytest.raises(DataError, match="there is something here already") as caught:
        memories.main(["copy", "--memories", address, "--to", other])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", STORES)
def test_a_deleted_user_is_gone_and_told_so(
    store: Callable[..., str], said: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    address = store(kind)
    before = contents(address)
    assert f"user {USER} deleted, and will get none: later builds skip" in said(
        "delete-user", "--memories", address, "--user", USER
    )
    assert contents(address).keys() == before.keys() - {USER}
    told = said("inspect", "--memories", address)
    assert f"memories {len(before) - 1}" in told
    assert "deleted users 1" in told
    assert "user 5 had no memory, and will get none" in said("delete-user", "--memories", address, "--user", 5)
    copied = f"lmdb:{tmp_path / 'copied'}"
    said("copy", "--memories", address, "--to", copied)
    for place in (address, copied):
        with pytest.raises(DataError, match=f": user {USER} was deleted$"):
            memories.main(["inspect", "--memories", place, "--user", str(USER)])


def test_users_of_text_are_named_as_they_are(model: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    log = random_log(text=True)
    build(model, tmp_path / "memories", write(log, tmp_path / "log.parquet"), tmp_path / "out")
    told = said("inspect", "--memories", tmp_path / "memories", "--user", "user 3")
    assert "Memory of user user 3" in told
    said("delete-user", "--memories", tmp_path / "memories", "--user", "user 3")
    assert "user 3" not in contents(tmp_path / "memories")
    with pytest.raises(DataError, match=r": user 17 has no memory$"):
        memories.main(["inspect", "--memories", str(tmp_path / "memories"), "--user", "17"])


@pytest.mark.parametrize("kind", STORES)
def test_what_is_not_there_is_one_line(store: Callable[..., str], kind: str) -> None:
    address = store(kind)
    for argv, error, said in (
        (["inspect", "--memories", address, "--user", "5"], DataError, "user 5 has no memory$"),
        (
            ["inspect", "--memories", address, "--user", "five"],
            SettingsError,
            "users are integers of 64 bits, 'five' is not one$",
        ),
        (
            ["delete-user", "--memories", address, "--user", "1.5"],
            SettingsError,
            "are integers of 64 bits, '1.5' is not one$",
        ),
        (
            ["delete-user", "--memories", address, "--user", str(2**63)],
            SettingsError,
            f"of 64 bits, '{2**63}' is not one$",
        ),
    ):
        with pytest.raises(error, match=said) as caught:
            memories.main(argv)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["inspect", "--memories", "nowhere"], "error: nowhere: no memories here"),
        (["inspect", "--memories", "parquet:nowhere"], "error: parquet:nowhere: no memories here"),
        (["delete-user", "--memories", "nowhere", "--user", "1"], "error: nowhere: no memories here"),
        (["copy", "--memories", "nowhere", "--to", "lmdb:there"], "error: nowhere: no memories here"),
        (["copy", "--memories", "nowhere"], "error: to: required; give it in a --config file or as --to"),
        (["forget", "--memories", "nowhere"], "error: 'forget' is no action; expected inspect, copy, delete-user"),
        (["--memories", "nowhere"], "error: '--memories' is no action; expected inspect, copy, delete-user"),
        (["inspect", "--memory", "nowhere"], "error: memory (command line): unknown key; did you mean memories?"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, argv: list[str], said: str) -> None:
    ended = run_forked(tmp_path, "pipelines.memories", *argv)
    assert ended.returncode == 2, ended.stderr
    lines = ended.stderr.splitlines()
    assert lines[0].startswith(said)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(lines) == 1 or argv[1] == "--memory"  # where the key that is wrong leaves one that is missing


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_the_actions(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert memories.main(argv) == 0
    said = capsys.readouterr().out
    for action in ("inspect", "copy", "delete-user"):
        assert f"python -m pipelines.memories {action} --help" in said


def test_a_user_is_deleted_while_a_build_is_broken_off(
    store: Callable[..., str], model: Path, tmp_path: Path, said: Callable[..., str]
) -> None:
    """The build goes on without the user, and ends."""
    address = store()
    more = random_log(seed=1, events=100)
    more = more.set_column(2, "timestamp", pc.add(more["timestamp"], 10_000))
    later = write(more, tmp_path / "later.parquet")
    argv = ["--model", model, "--memories", address, "--log", later, "--out", tmp_path / "out"]
    kill = Kill("feature_store.stores.store:StoreWriter.write", call=2)
    assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=kill).returncode == -9
    with pytest.raises(DataError, match="is under way; finish that build, then copy the store"):
        memories.main(["copy", "--memories", address, "--to", f"lmdb:{tmp_path / 'copied'}"])
    said("delete-user", "--memories", address, "--user", 100)
    build(model, address, later, tmp_path / "out")
    assert 100 not in contents(address)
    assert journal(address).under_way is None
