"""How benchmarks/compare_versions.py drives a version: by commands in its checkout, on a log cut into nights."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.version_jobs import WORKING_TREE, Log, Version, VersionFailed
from feature_store.errors import DataError


def test_a_log_is_cut_between_moments(tmp_path: Path) -> None:
    times = [9, 1, 1, 1, 1, 2, 5, 5, 5, None]
    events = pa.table({"uid": list(range(10)), "sku": [7] * 10, "when": pa.array(times)})
    pq.write_table(events, tmp_path / "log.parquet")
    (tmp_path / "recipe.yaml").write_text("data: {columns: {time: when}}")
    nights, candidates = Log("log", tmp_path / "log.parquet", tmp_path / "recipe.yaml").cut(tmp_path / "nights")
    assert [pq.read_table(night)["when"].to_pylist() for night in nights] == [[1, 1, 1, 1], [2, 5, 5, 5], [9]]
    assert pc.sum(pa.concat_tables(map(pq.read_table, nights))["uid"]).as_py() == sum(range(9))
    found = pq.read_table(candidates)
    assert found.column_names == ["uid", "sku"]
    assert found["uid"].to_pylist()[-1] == 0


def test_jobs_run_in_the_versions_own_checkout(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    other = Version("other", tmp_path / "checkout", tmp_path / "out", 1)
    other.check()
    Version("this", WORKING_TREE, tmp_path / "out", 1).check()
    with pytest.raises(VersionFailed, match=r"version other: -c raise SystemExit.* exits 1: no such thing"):
        other.run("-c", "raise SystemExit('no such thing')")
    (package / "__init__.py").unlink()
    package.rmdir()
    with pytest.raises((DataError, VersionFailed), match=r"Python imports|exits 1"):
        other.check()


def test_a_recipe_is_each_versions_own_unless_it_is_a_file(tmp_path: Path) -> None:
    version = Version("before", tmp_path, tmp_path, 1)
    assert (
        Log("a", tmp_path, Path("pipelines/recipes/a.yaml")).recipe_of(version) == tmp_path / "pipelines/recipes/a.yaml"
    )
    assert Log("a", tmp_path, Path("/mine/a.yaml")).recipe_of(version) == Path("/mine/a.yaml")
