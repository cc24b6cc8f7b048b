"""The work of `pipelines.score_batch`, imported once its settings are read."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from feature_store.files import replacing, sha256_of_text
from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores import open_store
from feature_store.stores.store import MemoryStore
from pipelines.cli.job import DONE, Progress, result_console
from pipelines.errors import SettingsError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.memory_records import check_space
from pipelines.models.model_files import find_model
from pipelines.runs.run_folder import held
from pipelines.score_batch import ScoreBatch
from pipelines.scoring.candidate_files import CandidateNames, dense_of, read_pieces, times_of
from pipelines.scoring.scorer import Scorer, encode

_METADATA_KEY = b"rm_rec_scores"
_ROWS_PER_PIECE = 131_072


def run(settings: ScoreBatch) -> int:
    """Score the candidates; return the exit code."""
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
    _check_out(Path(settings.out), source)
    with open_store(settings.memories) as store:
        check_space(trained, store, settings.model)
        job = ScoringJob(settings, trained, store, source, names)
        cold = job.run()
    if cold is None:
        console.print(f"{settings.out} already holds these scores; nothing to do. Delete it to score again.")
    else:
        console.print(f"{settings.out}: {source.num_rows:,} candidates scored, {cold:,} of users without a memory")
    return DONE


class ScoringJob:
    """Scores the candidates part by part, each in a file, and joins the parts in one file at the end."""

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
        """Score; return how many candidates' users have no memory, or None if the file has these scores already."""
        if (finished := _Part.read(self.out)) is not None and finished.fingerprint == self.fingerprint:
            shutil.rmtree(self.parts, ignore_errors=True)  # left by a job that was killed at its end
            return None
        with held(self.parts):
            return self._run()

    def _run(self) -> int:
        parts = self._finished_parts()
        num_scored = sum(part.rows for part in parts)
        with Progress("scoring", self.source.num_rows, "candidates") as progress:
            progress.advance(num_scored)
            for table, cold in self._scored(num_scored, progress):
                part = _Part(self.parts / f"part-{len(parts):06d}.parquet", self.fingerprint, table.num_rows, cold)
                part.write(table)
                parts.append(part)
        whole = _Part(self.out, self.fingerprint, sum(part.rows for part in parts), sum(part.cold for part in parts))
        whole.join(parts)
        shutil.rmtree(self.parts)
        return whole.cold

    def _finished_parts(self) -> list["_Part"]:
        """Return the parts that an earlier, killed job with the same fingerprint scored."""
        finished: list[_Part] = []
        for path in sorted(self.parts.glob("part-*.parquet")):
            part = _Part.read(path)
            if part is None or part.fingerprint != self.fingerprint or path.name != f"part-{len(finished):06d}.parquet":
                break
            finished.append(part)
        return finished

    def _scored(self, skip: int, progress: Progress) -> Iterator[tuple[pa.Table, int]]:
        """Score the rows after the first `skip`; yield parts, each with its number of candidates without a memory."""
        waiting: list[pa.Table] = []
        rows, cold, first_row = 0, 0, skip
        for piece in read_pieces(self.source, min(_ROWS_PER_PIECE, self.settings.part_rows), skip):
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
        names, path = self.names, self.settings.candidates
        default = np.full(len(piece), self.at, np.int64)
        time = times_of(piece, names.time, first_row, path) if names.time is not None else default
        context = {name: piece[name] for name in names.context}
        dense = dense_of(piece, names.dense, first_row, path)
        candidates = encode(self.scorer.trained, piece[names.item], time, context, dense)
        scores = self.scorer.score(piece[names.user], candidates)
        column = pa.array(scores.probability.astype(np.float32))
        return piece.append_column(self.settings.columns.prediction, column), scores.cold

    def _fingerprint(self) -> str:
        """Return the hash of all that the scores depend on: model, memories, candidates and how they are read."""
        inputs = [
            self.trained.card.weights_sha256,
            self.trained.card.vocabulary_sha256,
            self.store.facts.model_dump(mode="json"),  # a copy may have the same journal, but other states
            self.store.journal().model_dump(mode="json"),
            sorted(tombstone.hex() for tombstone in self.store.tombstones()),
            self.source.content_hash(),
            asdict(self.names),
            self.settings.columns.prediction,
            self.at,
        ]
        return sha256_of_text(json.dumps(inputs))


@dataclass(frozen=True)
class _Part:
    """A Parquet file of scored candidates, with the fingerprint of its job in the metadata."""

    path: Path
    fingerprint: str
    rows: int
    cold: int  # candidates whose users have no memory

    @classmethod
    def read(cls, path: Path) -> "_Part | None":
        """Read a file's metadata; None if it is no such file, or damaged."""
        try:
            with pq.ParquetFile(path) as file:
                metadata = json.loads((file.schema_arrow.metadata or {})[_METADATA_KEY])
                return cls(path, metadata["fingerprint"], file.metadata.num_rows, metadata["cold"])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None

    def write(self, table: pa.Table) -> None:
        """Write a table as the file."""
        self._write(table.schema, [table])

    def join(self, parts: Sequence["_Part"]) -> None:
        """Write the file from parts, with one row group in memory at a time."""
        with pq.ParquetFile(parts[0].path) as file:
            schema = file.schema_arrow
        self._write(schema, (table for part in parts for table in _row_groups(part.path)))

    def _write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        metadata = {_METADATA_KEY: json.dumps({"fingerprint": self.fingerprint, "cold": self.cold})}
        with (
            replacing(self.path) as partial,
            pq.ParquetWriter(partial, schema.with_metadata(metadata), compression="zstd") as writer,
        ):
            for table in tables:
                writer.write_table(table.replace_schema_metadata(metadata))


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _check_out(out: Path, source: ParquetSource) -> None:
    """Raise SettingsError if the output would overwrite candidates, or is a folder."""
    if out.is_dir():
        raise SettingsError(f"{out}: is a folder; name the Parquet file to write")
    path, candidates = out.resolve(), Path(source.path).expanduser()
    in_folder = candidates.is_dir() and candidates.resolve() in path.parents
    if in_folder or path in {file.resolve() for file in source.files}:
        raise SettingsError(f"{out}: is among the candidates, {source.path}; name a file elsewhere")
