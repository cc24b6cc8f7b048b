"""What a build is: the files that are new by their content, after the build that was broken off."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from feature_store.data_config import Columns, ImpressionFile, Impressions, LabelColumn, NextEvent
from feature_store.errors import DataError
from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores import Build, Journal, SourceFile, UnderWay
from pipelines.building.plan import build_id, data_config, event_source, how_read, plan_builds
from pipelines.building.settings import ReadConfig
from pipelines.errors import SettingsError
from pipelines.models.artifact import ModelCard
from rm_rec.config import FeatureSpace, ModelConfig
from tests.support.nights import write

HOW = how_read("3f2a", ReadConfig())
Night = Callable[[str, int], Path]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """Write a file of a name whose content is that of a number."""
    return lambda name, number: write(pa.table({"x": [number]}), tmp_path / "log" / f"{name}.parquet")


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., list[Build]]:
    return lambda journal=Journal(), how=HOW: plan_builds(journal, event_source(str(tmp_path / "log")), how)  # noqa: B008 - frozen


def names(builds: list[Build]) -> list[list[str]]:
    return [[file.name for file in build.files] for build in builds]


def test_the_first_build_is_of_all_files(night: Night, plan: Callable[..., list[Build]]) -> None:
    paths = [night("a", 1), night("b", 2)]
    (build,) = plan()
    assert names([build]) == [["a.parquet", "b.parquet"]]
    assert [file.sha256 for file in build.files] == ParquetSource.open(str(paths[0].parent)).file_hashes
    assert [file.rows for file in build.files] == [1, 1]
    assert (build.events, build.users, build.first_time) == (0, 0, None)


def test_files_are_known_by_their_content(night: Night, plan: Callable[..., list[Build]]) -> None:
    night("a", 1)
    journal = Journal(builds=tuple(plan()))
    assert plan(journal) == []
    night("a-again", 1)
    assert plan(journal) == []
    night("a", 2)  # other content under a name that was consumed
    night("b", 3)
    assert names(plan(journal)) == [["a.parquet", "b.parquet"]]


def test_two_files_of_one_content_are_one(night: Night, tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 2), ("c", 1), ("d", 2)):
        night(name, number)
    source = event_source(str(tmp_path / "log"))
    assert (source.names, source.num_rows) == (["a.parquet", "b.parquet"], 2)


def test_a_build_that_was_broken_off_comes_first(night: Night, plan: Callable[..., list[Build]]) -> None:
    night("a", 1)
    (begun,) = plan()
    journal = Journal(under_way=UnderWay(build=begun.model_copy(update={"events": 7}), step=3))
    night("b", 2)
    first, second = plan(journal)
    assert (first.id, first.events) == (begun.id, 7)
    assert names([first, second]) == [["a.parquet"], ["b.parquet"]]
    assert len({first.id, second.id}) == 2


def test_a_build_that_was_broken_off_needs_its_files(night: Night, plan: Callable[..., list[Build]]) -> None:
    path = night("a", 1)
    night("b", 2)
    (begun,) = plan()
    path.unlink()
    with pytest.raises(DataError) as caught:
        plan(Journal(under_way=UnderWay(build=begun, step=1)))
    assert f"build {begun.id}, which was interrupted, needs a.parquet (sha256 {begun.files[0].sha256[:12]})" in str(
        caught.value
    )
    path.with_name("moved.parquet").write_bytes(night("c", 1).read_bytes())  # the same content at another place
    assert plan(Journal(under_way=UnderWay(build=begun, step=1)))[0].id == begun.id


@pytest.mark.parametrize("other", [{"bad_rows": "error"}, {"duplicate_rows": "keep"}])
def test_a_build_goes_on_as_it_began(night: Night, plan: Callable[..., list[Build]], other: dict[str, str]) -> None:
    night("a", 1)
    journal = Journal(under_way=UnderWay(build=plan()[0], step=1))
    how = how_read("3f2a", ReadConfig.model_validate(other))
    with pytest.raises(
        SettingsError, match=r"began with other settings of read\.bad_rows or read\.duplicate_rows; give the same"
    ):
        plan(journal, how)
    assert plan(Journal(builds=plan()), how) == []  # of a build that ended they are no concern


def test_what_does_not_change_a_builds_rows_may_change() -> None:
    assert how_read("3f2a", ReadConfig(memory_limit_mb=300, events_per_bucket=9, batch_events=9)) == HOW
    assert how_read("91bc", ReadConfig()) != HOW


def test_a_build_is_named_by_content_and_settings() -> None:
    one, two = (SourceFile(name=name, sha256=name, rows=1) for name in "ab")
    assert build_id((one, two), HOW) == build_id((two, one.model_copy(update={"name": "moved"})), HOW)
    assert len({build_id((one, two), HOW), build_id((one,), HOW), build_id((one, two), "other")}) == 3


def card(impressions: Impressions) -> ModelCard:
    return ModelCard(
        rm_rec="0",
        torch="0",
        model=ModelConfig(),
        features=FeatureSpace(rows={"item": 1}, events=("item",), targets=("item",)),
        columns=Columns(user="who"),
        impressions=impressions,
        weights_sha256="",
        vocabulary_sha256="",
        memory_space=None,
    )


LABEL = LabelColumn(column="x", context_features=("y",), context_dense=("z",), carry=("w",))


@pytest.mark.parametrize(
    ("impressions", "columns", "expected"),
    [
        (LABEL, "wxyz", LABEL),
        (LABEL, "xyz", NextEvent()),
        (LABEL, "wxy", NextEvent()),
        (LABEL, "wyz", NextEvent()),
        (NextEvent(negatives=3), "wxyz", NextEvent()),
        (ImpressionFile(path="shown"), "wxyz", NextEvent()),
    ],
)
def test_labels_are_read_where_every_file_has_them(
    tmp_path: Path, impressions: Impressions, columns: str, expected: Impressions
) -> None:
    write(pa.table({name: [1] for name in "wxyz"}), tmp_path / "log" / "a.parquet")
    write(pa.table({name: [1] for name in columns}), tmp_path / "log" / "b.parquet")
    read = ReadConfig(bad_rows="error", duplicate_rows="keep", memory_limit_mb=222, events_per_bucket=5)
    config = data_config(card(impressions), ParquetSource.open(str(tmp_path / "log")), read)
    assert config.impressions == expected
    assert config.columns == Columns(user="who")
    assert (config.bad_rows, config.duplicate_rows) == ("error", "keep")
    assert (config.memory_limit_mb, config.events_per_bucket) == (222, 5)
