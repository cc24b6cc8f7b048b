"""Conversion of MovieLens' official ratings.csv (ml-latest-small, ml-25m and similar) to a Parquet log."""

from pathlib import Path

import duckdb

from feature_store.errors import DataError

HEADER = ["userId", "movieId", "rating", "timestamp"]


def convert_movielens(ratings: Path | str, out: Path | str) -> int:
    """Write ratings as user_id, item_id, rating (0.5 to 5), timestamp (seconds), by user and time; return their number.

    MovieLens' terms allow neither redistribution under other terms nor commercial use: download it from
    https://grouplens.org/datasets/movielens/ and do not share the converted file.

    Raises:
        DataError: there is no such file, or it is not MovieLens' ratings.csv.
    """
    ratings = Path(ratings)
    if not ratings.is_file():
        raise DataError(f"{ratings}: no such file; unpack the MovieLens archive and name its ratings.csv")
    with ratings.open() as lines:
        header = lines.readline().strip().split(",")
    if header != HEADER:
        raise DataError(
            f"{ratings}: its first line is {','.join(header)}, expected {','.join(HEADER)}; name ratings.csv"
        )
    with duckdb.connect() as connection:
        try:
            written = connection.execute(
                "COPY (SELECT userId AS user_id, movieId AS item_id, rating, timestamp FROM read_csv($ratings, "
                "header = true, "
                "columns = {userId: 'BIGINT', movieId: 'BIGINT', rating: 'DOUBLE', timestamp: 'BIGINT'}) "
                "ORDER BY user_id, timestamp, item_id) TO $out (FORMAT parquet, COMPRESSION zstd)",
                {"ratings": str(ratings), "out": str(out)},
            ).fetchone()
        except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{ratings}: not a valid file of MovieLens ({reason}); unpack the archive again") from error
    assert written is not None
    return int(written[0])
