"""How fast candidates are scored from memories: one user's, whole files, and users with long histories.

python benchmarks/score_speed.py [--users 2000] [--repeats 200]

ms_per_100_candidates        one user's 100 candidates from the loaded record: ids to rows, record to tensors, the
                             model, probabilities; median
candidates_per_core_second   the whole batch job on a file with 100 candidates a user: reading, memories, scores,
                             writing; median of three
length_ratio                 the first figure for a user with 100,000 events over that for one with 1,000, measured in
                             turns; median of ratios

One thread, process time. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from serving_model import DAY, NUM_ITEMS, START, make_model, write_log

from feature_store.logs.parquet_source import ParquetSource
from feature_store.stores import MemoryStore, StoreFacts, create_store
from pipelines.build_memory import BuildMemory
from pipelines.build_memory.job import build_all
from pipelines.building.plan import event_source
from pipelines.models.artifact import TrainedModel
from pipelines.models.memory_records import memory_schema, to_model
from pipelines.score_batch import ScoreBatch
from pipelines.score_batch.job import ScoringJob
from pipelines.scoring.candidate_files import CandidateNames
from pipelines.scoring.scorer import click_probability, encode

LATER = START + 400 * DAY
LONG_USER = 10_000_000


def seconds_of(work: Callable[[], object]) -> float:
    """Measure the process time of some work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def one_user(trained: TrainedModel, store: MemoryStore, user: int) -> Callable[[], object]:
    """Return what scores 100 candidates of a user whose record is loaded."""
    memories, found = store.get(pa.array([user]))
    items = np.random.default_rng(0).integers(0, NUM_ITEMS, 100)
    time, dense, place = np.full(100, LATER), np.zeros((100, 0), np.float32), torch.zeros(100, dtype=torch.int64)

    def score() -> object:
        candidates = encode(trained, pa.chunked_array([pa.array(items)]), time, {}, dense).of_users(place)
        return click_probability(trained, to_model(trained.model.memory, memories, found), candidates)

    return score


def batch_rate(trained: TrainedModel, store: MemoryStore, folder: Path, users: int) -> float:
    """Measure the candidates a second of the whole job."""
    generator = np.random.default_rng(0)
    table = pa.table(
        {
            "user_id": np.repeat(generator.permutation(users), 100),
            "item_id": generator.integers(0, NUM_ITEMS, users * 100),
            "timestamp": np.full(users * 100, LATER),
        }
    )
    pq.write_table(table, folder / "candidates.parquet")
    rates = []
    for repeat in range(3):
        settings = ScoreBatch(
            model="model",
            memories=store.address,
            candidates=str(folder / "candidates.parquet"),
            out=str(folder / f"scores-{repeat}.parquet"),
        )

        def score(settings: ScoreBatch = settings) -> None:
            source = ParquetSource.open(settings.candidates)
            names = CandidateNames.of(settings.columns, trained, source)
            ScoringJob(settings, trained, store, source, names).run()

        rates.append(table.num_rows / seconds_of(score))
    return statistics.median(rates)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trained = make_model(folder / "model")
        (folder / "log").mkdir()
        write_log(folder / "log" / "users.parquet", np.arange(arguments.users), 1_000, START, 365 * DAY)
        write_log(folder / "log" / "long.parquet", np.array([LONG_USER]), 100_000, START + 1, 365 * DAY)
        schema = memory_schema(trained.model.memory, trained.model.features.events, "float16", "int64")
        assert trained.card.memory_space is not None
        facts = StoreFacts(space_id=trained.card.memory_space, memory=schema, num_buckets=64)
        with create_store(str(folder / "memories"), facts) as store:
            settings = BuildMemory(
                model="model", memories=store.address, log=str(folder / "log"), out=str(folder / "out")
            )
            build_all(settings, trained, event_source(settings.log), store, notify=lambda line: None)
            short, long = one_user(trained, store, 0), one_user(trained, store, LONG_USER)
            pairs = [(seconds_of(short), seconds_of(long)) for _ in range(arguments.repeats)]
            pairs = pairs[len(pairs) // 10 :]  # the first calls warm caches up
            figures = {
                "ms_per_100_candidates": round(1e3 * statistics.median(first for first, _ in pairs), 3),
                "candidates_per_core_second": round(batch_rate(trained, store, folder, arguments.users)),
                "length_ratio": round(statistics.median(second / first for first, second in pairs), 3),
            }
    for name, value in figures.items():
        print(f"{name:28} {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
