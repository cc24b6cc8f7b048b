from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_store.datasets.movielens import convert_movielens
from feature_store.errors import DataError

RATINGS = "userId,movieId,rating,timestamp\n2,10,4.5,200\n1,7,3.0,100\n2,9,0.5,150\n"


def test_ratings_become_a_log(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(RATINGS)
    assert convert_movielens(tmp_path / "ratings.csv", tmp_path / "log.parquet") == 3
    assert pq.read_table(tmp_path / "log.parquet").to_pydict() == {
        "user_id": [1, 2, 2],
        "item_id": [7, 9, 10],
        "rating": [3.0, 0.5, 4.5],
        "timestamp": [100, 150, 200],
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file; unpack"),
        ("movieId,title\n1,Toy\n", "its first line is movieId,title, expected userId,movieId"),
        (RATINGS + "3,x,1.0,5\n", "ratings.csv: not a valid file of MovieLens"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        convert_movielens(tmp_path / "ratings.csv", tmp_path / "log.parquet")
    assert "\n" not in str(caught.value)
