"""Memories built night by night are those built at once; what was consumed is not consumed again."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.stores import open_store
from pipelines.models.artifact import save_model
from tests.end_to_end.building.builds import NewStore, counts, left_behind
from tests.support.fakes import model_config
from tests.support.nights import (
    COLUMNS,
    LABELLED,
    assert_same,
    build,
    contents,
    cut,
    journal,
    random_log,
    train,
    write,
    write_nights,
)


@pytest.mark.parametrize(("kind", "examples"), [("lmdb", 4), ("parquet", 3), ("redis", 2)])
def test_night_by_night_is_all_at_once(
    model: Path, tmp_path: Path, new_store: NewStore, kind: str, examples: int
) -> None:
    made = iter(range(1000))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 10_000),
        last=st.sampled_from([0, 30, 1_000_000]),
        text=st.booleans(),
        cuts=st.lists(st.floats(0, 1), max_size=4),
    )
    def check(seed: int, last: int, text: bool, cuts: list[float]) -> None:
        folder = tmp_path / str(next(made))
        log = random_log(seed, last=last, text=text)
        newest = pc.max(log["timestamp"]).as_py()
        often, once = (new_store(kind, folder / name) for name in ("often", "once"))
        nights = cut(log, [int(share * newest) for share in cuts])
        for path in write_nights(nights, folder / "log"):
            build(model, often, path, folder / "out", "--dtype", "float32", "--read.events_per_bucket", 30)
        build(model, once, write(log, folder / "whole.parquet"), folder / "out", "--dtype", "float32")
        assert_same(contents(often), contents(once), atol=1e-5)
        ours, theirs = counts(often), counts(once)
        repeats = len(log) - ours["events"]
        assert ours["events"] == theirs["events"] > 0
        assert repeats == 0 or last == 30  # a row that repeats another is set aside, in the night or in the whole
        assert ours["late"] == theirs["late"] == 0
        assert left_behind(folder / "out") == []

    check()


def test_events_of_a_nights_last_moment_may_come_the_next_night(model: Path, tmp_path: Path) -> None:
    log = random_log(last=12)
    keep = ("--dtype", "float32", "--read.duplicate_rows", "keep")
    for number, start in enumerate(range(0, 240, 60)):
        path = write(log.slice(start, 60), tmp_path / "log" / f"{number}.parquet")
        build(model, tmp_path / "often", path, tmp_path / "out", *keep)
    build(model, tmp_path / "once", tmp_path / "log", tmp_path / "out", *keep)
    assert_same(contents(tmp_path / "often"), contents(tmp_path / "once"), atol=1e-5)
    assert counts(str(tmp_path / "often"))["late"] == 0


def test_what_was_built_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = random_log()
    broken = log.slice(0, 4).set_column(1, "item_id", pa.nulls(4, pa.int64()))
    path = write(pa.concat_tables([log, log.slice(7, 3), broken]), tmp_path / "log.parquet")
    build(model, tmp_path / "memories", path, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (done,) = journal(tmp_path / "memories").builds
    users = len(log["user_id"].unique())
    assert {name: figures[name] for name in ("events", "users", "late", "builds", "memories")} == {
        "events": 240,
        "users": users,
        "late": 0,
        "builds": 1,
        "memories": users,
    }
    assert (done.events, done.users, done.first_time, done.last_time) == (240, users, 0, 2390)
    assert [(file.name, file.rows) for file in done.files] == [("log.parquet", 247)]
    reasons = pq.read_table(tmp_path / "out" / "rejects" / f"{done.id}.parquet")["rejected_reason"].to_pylist()
    assert sorted(reasons) == ["item_id is null"] * 4 + ["repeats an earlier row"] * 3
    said = capsys.readouterr().out
    for words in ("events folded", "240", "-m pipelines.score_batch --model", f"--memories {tmp_path / 'memories'}"):
        assert words in said
    with open_store(str(tmp_path / "memories")) as store:
        assert store.facts.memory.dtype == "float16"
        assert figures["bytes_per_user"] == store.facts.memory.bytes_per_user
        assert figures["memory_space"] == store.facts.space_id
        assert figures["bytes_on_disk"] == store.bytes_on_disk()


def files_of(folder: Path) -> dict[str, bytes]:
    """What a store's files hold; LMDB's lock file knows who reads, and is no part of it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb")
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("kind", ["lmdb", "parquet"])
def test_the_same_build_again_changes_nothing(
    model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address, store = f"{kind}:{tmp_path / 'memories'}", tmp_path / "memories"
    path = write(random_log(), tmp_path / "log.parquet")
    build(model, address, path, tmp_path / "out")
    before = files_of(store)
    capsys.readouterr()
    build(model, address, path, tmp_path / "out")
    assert files_of(store) == before
    assert f"{address}: every file of {path} was consumed before; nothing to do" in capsys.readouterr().out
    renamed = path.rename(tmp_path / "renamed.parquet")
    build(model, address, renamed, tmp_path / "elsewhere")
    assert files_of(store) == before
    assert json.loads((tmp_path / "elsewhere" / "metrics.json").read_text())["events"] == 0


def test_only_files_that_are_new_are_consumed(model: Path, tmp_path: Path) -> None:
    log = random_log()
    nights = [log.slice(0, 100), log.slice(100, 60), log.slice(160, 80)]
    write(nights[0], tmp_path / "log" / "a.parquet")
    build(model, tmp_path / "memories", tmp_path / "log", tmp_path / "out", "--dtype", "float32")
    (tmp_path / "log" / "a.parquet").rename(tmp_path / "log" / "z.parquet")
    write(nights[1], tmp_path / "log" / "b.parquet")
    write(nights[1], tmp_path / "log" / "b-again.parquet")
    write(nights[2], tmp_path / "log" / "later" / "c.parquet")
    build(model, tmp_path / "memories", tmp_path / "log", tmp_path / "out", "--dtype", "float32")
    first, second = journal(tmp_path / "memories").builds
    assert [file.name for file in first.files] == ["a.parquet"]
    assert [file.name for file in second.files] == ["b-again.parquet", "later/c.parquet"]
    assert (first.events, second.events) == (100, 140)
    build(model, tmp_path / "once", write(log, tmp_path / "whole.parquet"), tmp_path / "out", "--dtype", "float32")
    assert_same(contents(tmp_path / "memories"), contents(tmp_path / "once"), atol=1e-5)


def test_a_model_with_another_head_and_reader_goes_on_with_the_same_memories(tmp_path: Path) -> None:
    log = random_log()
    plain = train(log, tmp_path / "plain", LABELLED)
    config = model_config(head={"hidden_dims": (4, 4)}, reader={"kind": "attention", "num_heads": 1})
    other = train(log, tmp_path / "other", LABELLED, config=config, seed=3)
    other.model.load_state_dict(plain.model.writing_weights(), strict=False)
    save_model(tmp_path / "other" / "model", other.model, other.vocabularies, COLUMNS, LABELLED)
    for name, folder in (("one", "plain"), ("two", "other")):
        for number, rows in enumerate((log.slice(0, 120), log.slice(120))):
            path = write(rows, tmp_path / f"{number}.parquet")
            used = tmp_path / (folder if number else "plain") / "model"
            build(used, tmp_path / name, path, tmp_path / "out", "--dtype", "float32")
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"), atol=0)
