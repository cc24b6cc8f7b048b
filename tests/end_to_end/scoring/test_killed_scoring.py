"""Scoring that is killed, asked for twice or meets a build ends as if it had not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import memories, score_batch
from pipelines.runs.run_folder import held
from tests.end_to_end.scoring.scores import CONTEXT, Scored, arguments, score
from tests.support.nights import LABELLED, build, journal, random_log, train, write
from tests.support.small_runs import Kill, one_line, run_forked


def test_the_same_scores_again_are_no_work(
    labelled: Scored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(labelled.candidates, tmp_path / "candidates.parquet"), tmp_path / "deep" / "scores.parquet"
    score(labelled, path, out)
    before, moment = out.read_bytes(), out.stat().st_mtime_ns
    said = f"{out} already holds these scores; nothing to do. Delete it to score again."
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


PART = "pipelines.score_batch.job:_Part"
MOMENTS = {
    "nothing is scored": Kill(f"{PART}.write"),
    "the first part is written": Kill(f"{PART}.write", when="after"),
    "before the third part": Kill(f"{PART}.write", call=2),
    "in the middle of a part": Kill("pipelines.scoring.scorer:Scorer.score", call=2),
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
    assert "already holds these scores; nothing to do" in ended.stdout
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
    with held(tmp_path / "scores.parquet.parts"):
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
    kill = Kill("feature_store.stores.store:StoreWriter.write", call=3, when="after")
    assert run_forked(tmp_path, "pipelines.build_memory", *argv, kill=kill).returncode == -9
    path = write(log.select(["user_id", "item_id", *CONTEXT]), tmp_path / "candidates.parquet")
    found = score(scored, path, tmp_path / "scores.parquet")
    under_way = journal(scored.memories).under_way
    assert under_way is not None
    at = int(under_way.build.last_time or 0) + 1
    assert at > 2000
    np.testing.assert_array_equal(found, score(scored, path, tmp_path / "at.parquet", "--at", at))
