"""Score candidates from their users' memories alone: the log is never opened.

python -m pipelines.score_batch --model runs/a/model --memories memories --candidates today.parquet --out scores.parquet

Every column and the order of the rows are kept; one column is added. A job that was killed goes on where it was.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from feature_store.files import replacing, sha256_of_text
from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores import open_store
from feature_store.stores.store import MemoryStore
from pipelines.cli import load_settings
from pipelines.cli.job import DONE, Progress, result_console, run_job
from pipelines.errors import SettingsError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.memory_records import check_space
from pipelines.models.model_files import find_model
from pipelines.runs.run_folder import held
from pipelines.scoring.candidate_files import CandidateColumns, CandidateNames, dense_of, read_pieces, times_of
from pipelines.scoring.scorer import Scorer, encode
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.score_batch"
_SAID = b"rm_rec_scores"
_ROWS_AT_ONCE = 131_072


class ScoreBatch(Settings):
    """What to score, with what."""

    model: str
    """A model's folder, or models:/NAME/VERSION, models:/NAME@ALIAS, runs:/…"""
    allow_package: tuple[PackageName, ...] = ()
    """Packages of other people whose code the model may use, as a `kind` such as acme.machines:Fading names it."""
    memories: str
    """A store that build_memory made: a folder, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    candidates: str
    """One Parquet file with a user and an item in each row, a folder of them or a glob."""
    columns: CandidateColumns = CandidateColumns()
    at: int | None = None
    """The moment of candidates without a time, in the log's unit; by default the one after the store's newest event."""
    out: str
    """The Parquet file to write."""
    part_rows: int = Field(2_000_000, ge=1)
    """A job that was killed loses at most the work on so many rows."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0 leaves PyTorch's own choice."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow's address, for models:/ and runs:/."""


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        ScoreBatch,
        argv,
        prog=PROG,
        description="Score candidates from their users' memories alone.",
        examples=(
            f"{PROG} --model runs/quickstart --memories memories --candidates today.parquet --out scores.parquet",
            f"{PROG} --model models:/clicks@champion --memories redis://localhost --candidates in/ --out s.parquet",
        ),
    )
    console = result_console()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    trained = load_model(find_model(settings.model, settings.tracking_uri), settings.allow_package)
    source = ParquetSource.open(settings.candidates)
    names = CandidateNames.of(settings.columns, trained, source)
    if names.time is not None and settings.at is not None:
        raise SettingsError(
            f"{settings.candidates}: column {names.time!r} has each candidate's time, and --at gives another; leave "
            "out --at, or that column"
        )
    _refuse_overwriting(Path(settings.out), source)
    with open_store(settings.memories) as store:
        check_space(trained, store, settings.model)
        job = ScoringJob(settings, trained, store, source, names)
        cold = job.run()
    if cold is None:
        console.print(f"{settings.out} holds these very scores; nothing to do. Delete it to score anew.")
    else:
        console.print(f"{settings.out}: {source.num_rows:,} candidates scored, {cold:,} of users without a memory")
    return DONE


class ScoringJob:
    """Scores part after part of the candidates, and joins them in one file when all are there."""

    def __init__(
        self,
        settings: ScoreBatch,
        trained: TrainedModel,
        store: MemoryStore,
        source: ParquetSource,
        names: CandidateNames,
    ) -> None:
        self.settings, self.trained, self.store, self.source, self.names = settings, trained, store, source, names
        self.out = Path(settings.out)
        self.parts = self.out.with_name(self.out.name + ".parts")
        self.at = settings.at if settings.at is not None else store.journal().after_newest()
        self.scorer = Scorer(trained, store)
        self.fingerprint = self._fingerprint()

    def run(self) -> int | None:
        """Return how many candidates' users had no memory; None where the file with these scores is there already."""
        if (finished := _Part.read(self.out)) is not None and finished.fingerprint == self.fingerprint:
            shutil.rmtree(self.parts, ignore_errors=True)  # of a job that was killed as it ended
            return None
        with held(self.parts):
            return self._run()

    def _run(self) -> int:
        parts = self._kept_parts()
        done = sum(part.rows for part in parts)
        with Progress("scoring", self.source.num_rows, "candidates") as progress:
            progress.advance(done)
            for table, cold in self._scored(done, progress):
                part = _Part(self.parts / f"part-{len(parts):06d}.parquet", self.fingerprint, table.num_rows, cold)
                part.write(table)
                parts.append(part)
        whole = _Part(self.out, self.fingerprint, sum(part.rows for part in parts), sum(part.cold for part in parts))
        whole.join(parts)
        shutil.rmtree(self.parts)
        return whole.cold

    def _kept_parts(self) -> list["_Part"]:
        """Return the parts that were scored before a kill, if they are of this very job."""
        kept: list[_Part] = []
        for path in sorted(self.parts.glob("part-*.parquet")):
            part = _Part.read(path)
            if part is None or part.fingerprint != self.fingerprint or path.name != f"part-{len(kept):06d}.parquet":
                break
            kept.append(part)
        return kept

    def _scored(self, skip: int, progress: Progress) -> Iterator[tuple[pa.Table, int]]:
        """Score what is left, and yield it in parts, each with its number of candidates without a memory."""
        waiting: list[pa.Table] = []
        rows, cold, first_row = 0, 0, skip
        for piece in read_pieces(self.source, min(_ROWS_AT_ONCE, self.settings.part_rows), skip):
            scored, without = self._score(piece, first_row)
            waiting.append(scored)
            rows, cold, first_row = rows + len(piece), cold + without, first_row + len(piece)
            progress.advance(len(piece))
            if rows >= self.settings.part_rows:
                yield pa.concat_tables(waiting), cold
                waiting, rows, cold = [], 0, 0
        if waiting:
            yield pa.concat_tables(waiting), cold

    def _score(self, piece: pa.Table, first_row: int) -> tuple[pa.Table, int]:
        names, where = self.names, self.settings.candidates
        moment = np.full(len(piece), self.at, np.int64)
        time = times_of(piece, names.time, first_row, where) if names.time is not None else moment
        context = {name: piece[name] for name in names.context}
        dense = dense_of(piece, names.dense, first_row, where)
        candidates = encode(self.scorer.trained, piece[names.item], time, context, dense)
        scores = self.scorer.score(piece[names.user], candidates)
        column = pa.array(scores.probability.astype(np.float32))
        return piece.append_column(self.settings.columns.prediction, column), scores.cold

    def _fingerprint(self) -> str:
        """Name all that the scores depend on: model, memories, candidates and how they are read."""
        what = [
            self.trained.card.weights_sha256,
            self.trained.card.vocabulary_sha256,
            self.store.facts.model_dump(mode="json"),  # a copy may have its journal, but other states
            self.store.journal().model_dump(mode="json"),
            sorted(tombstone.hex() for tombstone in self.store.tombstones()),
            self.source.content_hash(),
            asdict(self.names),
            self.settings.columns.prediction,
            self.at,
        ]
        return sha256_of_text(json.dumps(what))


@dataclass(frozen=True)
class _Part:
    """A Parquet file of scored candidates that says of which job it is."""

    path: Path
    fingerprint: str
    rows: int
    cold: int  # candidates whose users have no memory

    @classmethod
    def read(cls, path: Path) -> "_Part | None":
        """Read what a file says of itself; None where it is none of these, or not whole."""
        try:
            with pq.ParquetFile(path) as file:
                said = json.loads((file.schema_arrow.metadata or {})[_SAID])
                return cls(path, said["fingerprint"], file.metadata.num_rows, said["cold"])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None

    def write(self, table: pa.Table) -> None:
        """Write the file at once."""
        self._write(table.schema, [table])

    def join(self, parts: Sequence["_Part"]) -> None:
        """Write the file of parts, one after the other, holding one row group at a time."""
        with pq.ParquetFile(parts[0].path) as file:
            schema = file.schema_arrow
        self._write(schema, (table for part in parts for table in _row_groups(part.path)))

    def _write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        said = {_SAID: json.dumps({"fingerprint": self.fingerprint, "cold": self.cold})}
        with (
            replacing(self.path) as partial,
            pq.ParquetWriter(partial, schema.with_metadata(said), compression="zstd") as writer,
        ):
            for table in tables:
                writer.write_table(table.replace_schema_metadata(said))


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _refuse_overwriting(out: Path, source: ParquetSource) -> None:
    if out.is_dir():
        raise SettingsError(f"{out}: a folder; name the Parquet file to write")
    place, given = out.resolve(), Path(source.path).expanduser()
    if place in {file.resolve() for file in source.files} or (given.is_dir() and given.resolve() in place.parents):
        raise SettingsError(f"{out}: lies among the candidates, {source.path}; name a file elsewhere")


if __name__ == "__main__":
    run_job(main)
