"""Scores from memories: the model's own on the log, every column kept, and never the log itself."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_runs import Ended, Kill, run_forked

from feature_store.errors import DataError
from feature_store.schema import DataConfig, ImpressionFile, Impressions, LabelColumn, NextEvent
from pipelines import build_memory, evaluate, memories, score_batch
from pipelines.memory import scorer
from pipelines.models.artifact import TrainedModel, load_model, save_model
from pipelines.run_folder import locked
from pipelines.training.data import LogData
from pipelines.training.fit import TrainingConfig, predict
from tests.fakes import KINDS, model_config
from tests.nights import COLUMNS, LABELLED, build, journal, random_log, silent, train, write

MOMENT = 1500
CONTEXT = ("position", "price", "age")
# Without ages, whose size would carry all clicks of drawn weights to certainty, whatever a memory says.
PRICED = LABELLED.model_copy(update={"context_dense": ("price",)})


@dataclass(frozen=True)
class Scored:
    """A model, memories of a log up to a moment, and its users' first impressions from then on with predictions."""

    model: Path
    memories: Path
    candidates: pa.Table
    expected: np.ndarray


def predictions(trained: TrainedModel, log: Path, folder: Path, impressions: Impressions) -> pa.Table:
    """What the model says of every impression of a log that it reads as a whole."""
    config = DataConfig(log=str(log), columns=COLUMNS, impressions=impressions)
    data = LogData.prepare(config, folder, silent)
    data = LogData(config, data.prepared, trained.vocabularies)
    parts = [predict(trained.model, data, split, TrainingConfig()) for split in range(3) if data.num_impressions(split)]
    return pa.concat_tables(parts).drop_columns(["split"])


def first_from(moment: int, table: pa.Table) -> pa.Table:
    """Each user's impressions of the first time that is not before a moment."""
    later = table.filter(pc.greater_equal(table["timestamp"], moment))
    first = later.group_by("user_id").aggregate([("timestamp", "min")])
    joined = later.join(first, "user_id")
    return joined.filter(pc.equal(joined["timestamp"], joined["timestamp_min"])).drop_columns(["timestamp_min"])


def before(moment: int, log: pa.Table) -> pa.Table:
    return log.filter(pc.less(log["timestamp"], moment))


def scored_by(folder: Path, impressions: Impressions, machine: str = "associative") -> Scored:
    log = random_log(seed=3, users=20, events=300)
    trained = train(before(2000, log), folder, impressions, config=model_config(machine=machine))  # some items are new
    whole = write(log, folder / "whole.parquet")
    found = first_from(MOMENT, predictions(trained, whole, folder / "whole-prepared", impressions))
    if isinstance(impressions, LabelColumn):  # each event has a time of its own, which finds its context
        found = found.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    early = write(before(MOMENT, log), folder / "early.parquet")
    build(folder / "model", folder / "memories", early, folder / "out", "--dtype", "float32")
    for path in (whole, early, folder / "trained-on.parquet"):
        path.unlink()
    for name in ("prepared", "whole-prepared", "out"):
        shutil.rmtree(folder / name)
    table = found.drop_columns(["label", "history_length", "prediction"])
    return Scored(folder / "model", folder / "memories", table, found["prediction"].to_numpy())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return scored_by(tmp_path_factory.mktemp("labelled"), LABELLED)


def arguments(scored: Scored, candidates: Path | str, out: Path, *more: object) -> list[str]:
    argv = ["--model", scored.model, "--memories", scored.memories, "--candidates", candidates, "--out", out]
    return [*map(str, [*argv, "--threads", 1, *more])]


def score(scored: Scored, candidates: Path | str, out: Path, *more: object) -> np.ndarray:
    assert score_batch.main(arguments(scored, candidates, out, *more)) == 0
    return pq.read_table(out)["prediction"].to_numpy()


def one_line(ended: Ended) -> str:
    assert ended.returncode == 2, (ended.returncode, ended.stderr)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("scoring: ")]
    assert len(lines) == 1, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("impressions", "machine"),
    [(NextEvent(negatives=2), "associative"), *((PRICED, kind) for kind in ["none", *KINDS])],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_scores_are_the_models_own_predictions(tmp_path: Path, impressions: Impressions, machine: str) -> None:
    """Of any machine: to float32's precision, and from states kept in float16 to what that can hold."""
    scored = scored_by(tmp_path, impressions, machine)
    assert len(scored.candidates["user_id"].unique()) > 15
    assert len(np.unique(scored.expected.round(4))) > 12
    path = write(scored.candidates, tmp_path / "candidates.parquet")
    np.testing.assert_allclose(score(scored, path, tmp_path / "scores.parquet"), scored.expected, atol=1e-5)
    half = replace(scored, memories=tmp_path / "half")
    copied = ["copy", "--memories", str(scored.memories), "--to", f"lmdb:{half.memories}", "--dtype", "float16"]
    assert memories.main(copied) == 0
    np.testing.assert_allclose(score(half, path, tmp_path / "half.parquet"), scored.expected, atol=1e-4)


def test_impressions_of_a_file_are_scored_as_predicted(tmp_path: Path) -> None:
    log = random_log(seed=3, users=20, events=300)
    events = before(MOMENT, log)
    shown = write(log.filter(pc.greater_equal(log["timestamp"], MOMENT)), tmp_path / "shown.parquet")
    asked = ImpressionFile(
        path=str(shown), column="clicked", context_features=("position",), context_dense=("price", "age")
    )
    trained = train(events, tmp_path, asked)
    early = write(events, tmp_path / "early.parquet")
    found = predictions(trained, early, tmp_path / "whole", asked)
    found = found.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    build(tmp_path / "model", tmp_path / "memories", early, tmp_path / "out", "--dtype", "float32")
    scored = Scored(tmp_path / "model", tmp_path / "memories", found, found["prediction"].to_numpy())
    path = write(found.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    np.testing.assert_allclose(score(scored, path, tmp_path / "s.parquet"), scored.expected, atol=1e-5)
    assert len(found) == 150


def test_a_trained_model_scores_as_it_evaluates(trained: Path, log: Path, tracking_uri: str, tmp_path: Path) -> None:
    """From the log to scores by the jobs alone, and by each address that a model has."""
    whole = pq.read_table(log)
    own = tmp_path / "log.parquet"
    shutil.copy(log, own)
    argv = ["--model", str(trained / "model"), "--data.log", str(own), "--split", "null", "--metrics.resamples", "0"]
    assert evaluate.main([*argv, "--out", str(tmp_path / "evaluated")]) == 0
    moment = int(np.median(whole["timestamp"].to_numpy()))
    expected = first_from(moment, pq.read_table(tmp_path / "evaluated" / "predictions.parquet"))
    carried = [name for name in whole.column_names if name not in expected.column_names]
    expected = expected.join(
        whole.select(["user_id", "item_id", "timestamp", *carried]), ["user_id", "item_id", "timestamp"]
    )
    early = write(before(moment, whole), tmp_path / "early.parquet")
    store = tmp_path / "memories"
    argv = ["--model", str(trained), "--memories", str(store), "--log", str(early), "--out", str(tmp_path / "out")]
    assert build_memory.main([*argv, "--dtype", "float32", "--num_buckets", "4"]) == 0
    own.unlink()
    early.unlink()
    shutil.rmtree(tmp_path / "out")
    candidates = write(expected.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    client = mlflow.MlflowClient(tracking_uri)
    (version,) = client.search_model_versions("name = 'to-evaluate'")
    addresses = (str(trained), str(trained / "model"), "models:/to-evaluate@candidate", f"runs:/{version.run_id}/model")
    for number, address in enumerate(addresses):
        out = tmp_path / f"scores-{number}.parquet"
        argv = ["--model", address, "--memories", str(store), "--candidates", str(candidates), "--out", str(out)]
        assert score_batch.main([*argv, "--tracking_uri", tracking_uri]) == 0
        np.testing.assert_allclose(pq.read_table(out)["prediction"], expected["prediction"], atol=1e-5)
    with pytest.raises(DataError, match=r"^models:/nobody/1: MLflow at sqlite:.* does not give this model: ") as caught:
        score_batch.main(["--model", "models:/nobody/1", *argv[2:], "--tracking_uri", tracking_uri])
    assert "\n" not in str(caught.value)


def odd(table: pa.Table) -> pa.Table:
    """Give a table columns of many types, nulls in user and item, and the rows another order."""
    draw = np.random.default_rng(0)
    table = table.take(pa.array(draw.permutation(len(table))))
    count = len(table)
    moments = pa.array(draw.integers(0, 10**15, count), pa.timestamp("us", "UTC")).cast(
        pa.timestamp("us", "Asia/Tokyo")
    )
    more: dict[str, Any] = {
        "note": pa.array([None if place % 3 else f"no. {place}" for place in range(count)]),
        "kind": pa.array([f"k{place % 4}" for place in range(count)]).dictionary_encode(),
        "list": pa.array([[place, None] for place in range(count)], pa.list_(pa.int16())),
        "struct": pa.array([{"a": place, "b": str(place)} for place in range(count)]),
        "shown": moments,
        "amount": pa.array(draw.integers(0, 99, count)).cast(pa.decimal128(24, 2)),
        "raw": pa.array([bytes([place % 256]) for place in range(count)]),
        "half": pa.array(draw.random(count).astype(np.float16)),
        "wide": pa.array([f"w{place}" for place in range(count)], pa.large_string()),
        "ok": pa.array(draw.random(count) > 0.5),
    }
    for name, values in more.items():
        table = table.append_column(name, values)
    for place, name in ((0, "user_id"), (1, "item_id")):
        values = table[name].to_pylist()
        for row in (2 + place, 9, count - 1):
            values[row] = None
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    return table


def test_every_column_and_the_order_of_rows_are_kept(labelled: Scored, tmp_path: Path) -> None:
    table = odd(pa.concat_tables([labelled.candidates] * 12))
    path = write(table, tmp_path / "candidates.parquet")
    expected = score(labelled, path, tmp_path / "scores.parquet")
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.drop_columns(["prediction"]).equals(table)
    assert found.column_names == [*table.column_names, "prediction"]
    assert found.schema.field("prediction").type == pa.float32()
    assert found["prediction"].null_count == 0
    assert ((expected > 0) & (expected < 1)).all()
    # The same rows in files of uneven sizes, below folders.
    for number, (start, end) in enumerate([(0, 1), (1, 50), (50, 50), (50, len(table))]):
        write(table.slice(start, end - start), tmp_path / "in" / f"deep-{number}" / "part.parquet")
    for size in (1_000_000, 7):
        again = score(labelled, tmp_path / "in", tmp_path / f"of-files-{size}.parquet", "--part_rows", size)
        np.testing.assert_allclose(again, expected, atol=1e-6)
        found = pq.read_table(tmp_path / f"of-files-{size}.parquet")
        assert found.drop_columns(["prediction"]).equals(table)
    again = score(labelled, str(tmp_path / "in" / "*" / "part.parquet"), tmp_path / "of-glob.parquet")
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_rows_in_another_order_have_the_same_scores(labelled: Scored, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(labelled.candidates))
    shuffled = write(labelled.candidates.take(pa.array(order)), tmp_path / "shuffled.parquet")
    found = score(labelled, shuffled, tmp_path / "scores.parquet", "--part_rows", 5)
    np.testing.assert_allclose(found, labelled.expected[order], atol=1e-5)


def test_folders_name_columns(labelled: Scored, tmp_path: Path) -> None:
    table = labelled.candidates
    for day, (start, end) in {"2026-11-20": (0, 5), "2026-11-21": (5, len(table))}.items():
        write(table.slice(start, end - start), tmp_path / "in" / f"day={day}" / "part.parquet")
    np.testing.assert_allclose(
        score(labelled, tmp_path / "in", tmp_path / "scores.parquet"), labelled.expected, atol=1e-5
    )
    found = pq.read_table(tmp_path / "scores.parquet")
    assert found.drop_columns(["day", "prediction"]).equals(table)
    assert found["day"].to_pylist() == ["2026-11-20"] * 5 + ["2026-11-21"] * (len(table) - 5)


def test_a_context_that_a_folder_names_is_read(tmp_path: Path) -> None:
    shown = LabelColumn(column="clicked", context_features=("place",))
    log = random_log(events=200)
    log = log.append_column("place", pc.cast(log["position"], pa.string()))
    train(log, tmp_path, shown)
    build(tmp_path / "model", tmp_path / "memories", write(log, tmp_path / "log.parquet"), tmp_path / "out")
    scored = Scored(tmp_path / "model", tmp_path / "memories", log, np.zeros(0))
    plain = log.select(["user_id", "item_id", "place"]).sort_by("place")
    expected = score(scored, write(plain, tmp_path / "plain.parquet"), tmp_path / "expected.parquet")
    for place in "01234":
        rows = plain.filter(pc.equal(plain["place"], place)).drop_columns(["place"])
        write(rows, tmp_path / "in" / f"place={place}" / "part.parquet")
    np.testing.assert_allclose(score(scored, tmp_path / "in", tmp_path / "scores.parquet"), expected, atol=1e-6)
    assert len(np.unique(expected)) > 100


def test_who_or_what_is_unknown_is_cold(labelled: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown user is one without a history: what the model says at a user's very first event."""
    log = random_log(seed=3, users=20, events=300)
    first = first_from(
        0, predictions(load_model(labelled.model), write(log, tmp_path / "log.parquet"), tmp_path, LABELLED)
    )
    first = first.join(log.select(["timestamp", *CONTEXT]), "timestamp")
    assert set(first["history_length"].to_pylist()) == {0}
    strangers = pa.array([None if place % 2 else -1 - place for place in range(len(first))], pa.int64())
    table = first.set_column(first.column_names.index("user_id"), "user_id", strangers)
    path = write(table.drop_columns(["prediction"]), tmp_path / "candidates.parquet")
    capsys.readouterr()
    np.testing.assert_allclose(score(labelled, path, tmp_path / "s.parquet"), first["prediction"], atol=1e-5)
    assert f"{len(first)} candidates scored, {len(first)} of users without a memory" in capsys.readouterr().out
    # Items: two that nobody knows, and null, are scored, and not as if they were known.
    one = labelled.candidates.slice(0, 1)
    items = pa.array([one["item_id"][0].as_py(), 10**12, None], pa.int64())
    rows = pa.concat_tables([one] * 3)
    rows = rows.set_column(rows.column_names.index("item_id"), "item_id", items)
    found = score(labelled, write(rows, tmp_path / "items.parquet"), tmp_path / "of-items.parquet")
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_the_moment_of_candidates(labelled: Scored, tmp_path: Path) -> None:
    """A column of times; or --at for all; or the moment after the store's newest event."""
    table = labelled.candidates.drop_columns(["timestamp"])
    count = len(table)
    path = write(table, tmp_path / "without.parquet")

    def with_times(values: pa.Array, name: str = "timestamp") -> Path:
        return write(table.append_column(name, values), tmp_path / f"{name}-{values.type}.parquet".replace(" ", "_"))

    newest = 1490
    neither = score(labelled, path, tmp_path / "neither.parquet")
    for at in (newest + 1, 10**9):
        of_column = score(labelled, with_times(pa.repeat(pa.scalar(at), count)), tmp_path / f"column-{at}.parquet")
        of_option = score(labelled, path, tmp_path / f"at-{at}.parquet", "--at", at)
        np.testing.assert_array_equal(of_column, of_option)
        assert (at == newest + 1) == np.array_equal(of_option, neither)
    other = with_times(pa.repeat(pa.scalar(10**9), count), "when")
    named = score(labelled, other, tmp_path / "named.parquet", "--columns.time", "when")
    np.testing.assert_array_equal(named, of_column)
    micros = pa.repeat(pa.scalar(10**9), count)
    for number, kind in enumerate(
        (pa.timestamp("us"), pa.timestamp("us", "Asia/Tokyo"), pa.timestamp("ns", "UTC"), pa.timestamp("s"))
    ):
        values = pa.array(micros.to_numpy(), pa.timestamp("us")).cast(pa.timestamp(kind.unit))
        values = pa.array(values.cast(pa.int64()), kind)
        found = score(labelled, with_times(values), tmp_path / f"zone-{number}.parquet")
        np.testing.assert_array_equal(found, of_column)
    with pytest.raises(DataError, match="column 'timestamp' has each candidate's time, and --at gives another"):
        score(labelled, with_times(micros), tmp_path / "both.parquet", "--at", 10**9)


def test_a_memory_that_is_not_older_than_its_candidate_is_refused(labelled: Scored, tmp_path: Path) -> None:
    ended = run_forked(
        tmp_path,
        "pipelines.score_batch",
        *arguments(labelled, write(labelled.candidates, tmp_path / "c.parquet"), tmp_path / "s.parquet"),
    )
    assert ended.returncode == 0, ended.stderr
    early = labelled.candidates.drop_columns(["timestamp"])
    argv = arguments(labelled, write(early, tmp_path / "early.parquet"), tmp_path / "t.parquet", "--at", 900)
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv))
    assert "no earlier than its candidate's time 900, and would look ahead" in line
    assert not (tmp_path / "t.parquet").exists()


def test_a_user_with_more_candidates_than_are_scored_at_once(
    labelled: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.concat_tables([labelled.candidates.slice(0, 1)] * 90 + [labelled.candidates])
    items = pa.array([300 + place % 17 for place in range(len(rows))])
    rows = rows.set_column(rows.column_names.index("item_id"), "item_id", items)
    path = write(rows, tmp_path / "candidates.parquet")
    expected = score(labelled, path, tmp_path / "expected.parquet")
    monkeypatch.setattr(scorer, "_CANDIDATES_AT_ONCE", 16)
    monkeypatch.setattr(score_batch, "_ROWS_AT_ONCE", 50)
    found = score(labelled, path, tmp_path / "scores.parquet", "--part_rows", 70)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) > 30


def test_the_same_scores_again_are_no_work(
    labelled: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(labelled.candidates, tmp_path / "candidates.parquet"), tmp_path / "deep" / "scores.parquet"
    score(labelled, path, out)
    before, moment = out.read_bytes(), out.stat().st_mtime_ns
    said = f"{out} holds these very scores; nothing to do. Delete it to score anew."
    assert said not in capsys.readouterr().out
    for more in ((), ("--part_rows", 3)):
        score(labelled, path, out, *more)
        assert said in capsys.readouterr().out
    assert (out.read_bytes(), out.stat().st_mtime_ns) == (before, moment)
    assert [file.name for file in out.parent.iterdir()] == ["scores.parquet"]
    # What the scores depend on makes them others: the candidates, the moment, the model, the memories, their precision.
    write(labelled.candidates.slice(1), path)
    score(labelled, path, out)
    assert pq.read_metadata(out).num_rows == len(labelled.candidates) - 1
    write(labelled.candidates.drop_columns(["timestamp"]), path)
    for at in (5000, 90_000_000):
        score(labelled, path, out, "--at", at)
        assert said not in capsys.readouterr().out
    half = Scored(labelled.model, tmp_path / "half", labelled.candidates, labelled.expected)
    argv = ["copy", "--memories", str(labelled.memories), "--to", f"lmdb:{half.memories}", "--dtype", "float16"]
    assert memories.main(argv) == 0
    score(half, path, out, "--at", 90_000_000)
    assert said not in capsys.readouterr().out
    gone = labelled.candidates["user_id"][0].as_py()
    assert memories.main(["delete-user", "--memories", str(half.memories), "--user", str(gone)]) == 0
    score(half, path, out, "--at", 90_000_000)
    assert said not in capsys.readouterr().out
    argv = arguments(half, path, out, "--at", 90_000_000, "--columns.prediction", "p_click")
    assert score_batch.main(argv) == 0
    assert "p_click" in pq.read_schema(out).names


PART = "pipelines.score_batch:_Part"
MOMENTS = {
    "nothing is scored": Kill(f"{PART}.write"),
    "the first part is written": Kill(f"{PART}.write", when="after"),
    "before the third part": Kill(f"{PART}.write", call=2),
    "in the middle of a part": Kill("pipelines.memory.scorer:Scorer.score", call=2),
    "a part is written but has no name": Kill("os:replace"),
    "all parts but the last": Kill(f"{PART}.write", call=2, when="after"),
    "before the parts are joined": Kill(f"{PART}.join"),
    "the parts are joined but have no name": Kill("os:replace"),
    "all is there": Kill("shutil:rmtree"),
}


def test_killed_at_every_moment(labelled: Scored, tmp_path: Path) -> None:
    """Parts of 20 rows: five of them."""
    rows = pa.concat_tables([labelled.candidates] * 10).slice(0, 100)
    path = write(rows, tmp_path / "candidates.parquet")
    score(labelled, path, tmp_path / "unbroken.parquet", "--part_rows", 20)
    out = tmp_path / "killed.parquet"
    argv = arguments(labelled, path, out, "--part_rows", 20)
    for moment, kill in MOMENTS.items():
        assert not out.exists(), moment
        ended = run_forked(tmp_path, "pipelines.score_batch", *argv, kill=kill)
        assert ended.returncode == -9, f"{moment}: {ended.returncode} {ended.stderr}"
    ended = run_forked(tmp_path, "pipelines.score_batch", *argv)
    assert ended.returncode == 0, ended.stderr
    assert "holds these very scores; nothing to do" in ended.stdout
    assert out.read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()
    assert not (tmp_path / "killed.parquet.parts").exists()


def test_parts_of_another_job_or_damaged_ones_are_scored_anew(labelled: Scored, tmp_path: Path) -> None:
    rows = pa.concat_tables([labelled.candidates] * 10).slice(0, 100)
    path, out = write(rows, tmp_path / "candidates.parquet"), tmp_path / "scores.parquet"
    argv = arguments(labelled, path, out, "--part_rows", 20)
    kill = Kill(f"{PART}.write", call=3, when="after")
    assert run_forked(tmp_path, "pipelines.score_batch", *argv, kill=kill).returncode == -9
    parts = sorted((tmp_path / "scores.parquet.parts").glob("*.parquet"))
    assert [part.name for part in parts] == [f"part-{number:06d}.parquet" for number in range(3)]
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    expected = score(labelled, path, tmp_path / "expected.parquet")
    np.testing.assert_allclose(score(labelled, path, out, "--part_rows", 30), expected, atol=1e-6)
    out.unlink()
    assert run_forked(tmp_path, "pipelines.score_batch", *argv, kill=kill).returncode == -9
    write(rows.slice(0, 50), path)
    np.testing.assert_allclose(score(labelled, path, out, "--part_rows", 20), expected[:50], atol=1e-6)


def test_two_jobs_of_one_file_are_refused(labelled: Scored, tmp_path: Path) -> None:
    path, out = write(labelled.candidates, tmp_path / "candidates.parquet"), tmp_path / "scores.parquet"
    with locked(tmp_path / "scores.parquet.parts"):
        line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(labelled, path, out)))
    assert line == f"error: {out}.parts: another process is at work here; wait for it, or give another --out"
    score(labelled, path, out)
    assert sorted(file.name for file in tmp_path.glob("scores*")) == ["scores.parquet"]


def test_scores_while_a_build_is_under_way(tmp_path: Path) -> None:
    """Without a time, candidates are of the moment after the newest event of all, those of a part of a night too."""
    log = random_log(events=300)
    train(log, tmp_path, LABELLED)
    scored = Scored(tmp_path / "model", tmp_path / "memories", log, np.zeros(0))
    build(scored.model, scored.memories, write(log.slice(0, 200), tmp_path / "a.parquet"), tmp_path / "out")
    night = write(log.slice(200), tmp_path / "b.parquet")
    argv = ["--model", scored.model, "--memories", scored.memories, "--log", night, "--out", tmp_path / "out"]
    kill = Kill("feature_store.memories.store:StoreWriter.write", call=3, when="after")
    assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=kill).returncode == -9
    path = write(log.select(["user_id", "item_id", *CONTEXT]), tmp_path / "candidates.parquet")
    found = score(scored, path, tmp_path / "scores.parquet")
    under_way = journal(scored.memories).under_way
    assert under_way is not None
    at = int(under_way.build.last_time or 0) + 1
    assert at > 2000
    np.testing.assert_array_equal(found, score(scored, path, tmp_path / "at.parquet", "--at", at))


def test_a_model_of_another_space_is_refused_and_one_with_another_head_is_not(tmp_path: Path) -> None:
    log = random_log()
    plain = train(log, tmp_path / "plain", LABELLED)
    build(tmp_path / "plain" / "model", tmp_path / "memories", write(log, tmp_path / "log.parquet"), tmp_path / "out")
    path = write(log.select(["user_id", "item_id", *CONTEXT]), tmp_path / "candidates.parquet")
    config = model_config(head={"hidden_dims": (4, 4)}, reader={"kind": "attention", "num_heads": 1})
    other = train(log, tmp_path / "other", LABELLED, config=config, seed=3)
    scored = Scored(tmp_path / "other" / "model", tmp_path / "memories", log, np.zeros(0))
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(scored, path, tmp_path / "s.parquet")))
    assert line == (
        f"error: lmdb:{scored.memories}: its memories were built in space {plain.card.memory_space}, model "
        f"{scored.model} is in {other.card.memory_space}; build its own: python -m pipelines.build_memory --model "
        f"{scored.model} --memories NEW_STORE --log LOG"
    )
    other.model.load_state_dict(plain.model.writing_weights(), strict=False)
    save_model(scored.model, other.model, other.vocabularies, COLUMNS, LABELLED)
    found = score(scored, path, tmp_path / "s.parquet")
    theirs = Scored(tmp_path / "plain" / "model", tmp_path / "memories", log, np.zeros(0))
    assert not np.allclose(found, score(theirs, path, tmp_path / "t.parquet"))


def changed(table: pa.Table, name: str, values: Sequence[Any] | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


WRONG: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no user": (lambda t: t.drop_columns(["user_id"]), "no column 'user_id'"),
    "no context": (lambda t: t.drop_columns(["price"]), "no column 'price'"),
    "users of text": (
        lambda t: changed(t, "user_id", t["user_id"].cast(pa.string())),
        "its users are int64, these are",
    ),
    "users of floats": (lambda t: changed(t, "user_id", t["user_id"].cast(pa.float64())), "'user_id' holds floats"),
    "items of text": (lambda t: changed(t, "item_id", t["item_id"].cast(pa.string())), "was trained on integers"),
    "times of text": (lambda t: changed(t, "timestamp", t["timestamp"].cast(pa.string())), "'timestamp' holds strings"),
    "dense of text": (lambda t: changed(t, "price", t["price"].cast(pa.string())), "'price' holds strings"),
    "a null time": (lambda t: changed(t, "timestamp", [*t["timestamp"].to_pylist()[:-1], None]), "the time is null"),
    "a null dense": (lambda t: changed(t, "age", [None, *t["age"].to_pylist()[1:]]), "'age', row 0 (from 0) is not a"),
    "a prediction": (lambda t: t.append_column("prediction", t["price"]), "there is a column 'prediction' already"),
    "no row": (lambda t: t.slice(0, 0), "is empty (0 rows in 1 files)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_candidates_are_one_line(labelled: Scored, tmp_path: Path, name: str) -> None:
    change, said = WRONG[name]
    path = write(change(labelled.candidates), tmp_path / "candidates.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(labelled, path, tmp_path / "s.parquet")))
    assert said in line
    assert not (tmp_path / "s.parquet").exists()


def test_wrong_places_are_one_line(labelled: Scored, tmp_path: Path) -> None:
    path = write(labelled.candidates, tmp_path / "in" / "candidates.parquet")
    nobody = Scored(labelled.model, tmp_path / "nowhere", labelled.candidates, labelled.expected)
    elsewhere = tmp_path / "s.parquet"
    cases: list[tuple[Scored, Path, Path, str]] = [
        (labelled, path, tmp_path / "in", "in: a folder; name the Parquet file to write"),
        (labelled, path, path, "candidates.parquet: lies among the candidates"),
        (labelled, path.parent, path.parent / "deep" / "s.parquet", "s.parquet: lies among the candidates"),
        (labelled, tmp_path / "nothing", elsewhere, "nothing: no such file or folder"),
        (nobody, path, elsewhere, "nowhere: no memories here"),
        (labelled, path, path / "s.parquet", "Not a directory; name a place that can be written"),
    ]
    for scored, candidates, out, said in cases:
        line = one_line(run_forked(tmp_path, "pipelines.score_batch", *arguments(scored, candidates, out)))
        assert said in line
    assert pq.read_table(path).equals(labelled.candidates)


def test_a_full_disk_is_one_line(labelled: Scored, tmp_path: Path) -> None:
    path = write(pa.concat_tables([labelled.candidates] * 20), tmp_path / "candidates.parquet")
    argv = arguments(labelled, path, tmp_path / "s.parquet")
    line = one_line(run_forked(tmp_path, "pipelines.score_batch", *argv, largest_file=2_000))
    assert "File too large" in line
    assert not (tmp_path / "s.parquet").exists()
    assert run_forked(tmp_path, "pipelines.score_batch", *argv).returncode == 0


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The Parquet files that are opened."""
    opened: set[str] = set()
    whole = pq.ParquetFile

    def noted(source: Any, *arguments: Any, **named: Any) -> Any:
        opened.add(str(source))
        return whole(source, *arguments, **named)

    monkeypatch.setattr(pq, "ParquetFile", noted)
    return opened


def test_nothing_is_read_but_candidates_and_scores(labelled: Scored, tmp_path: Path, files_read: set[str]) -> None:
    path = write(labelled.candidates, tmp_path / "candidates.parquet")
    score(labelled, path, tmp_path / "s.parquet")
    assert files_read <= {
        str(path),
        str(tmp_path / "s.parquet"),
        str(tmp_path / "s.parquet.parts" / "part-000000.parquet"),
    }
