"""A version of this repository at work on a log, by its own command lines."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from feature_store.errors import DataError
from rm_rec.errors import RmRecError

WORKING_TREE = Path(__file__).parents[1]
NIGHTS, CANDIDATES = 3, 5000


class VersionFailed(RmRecError):  # noqa: N818 - a version that cannot do its work differs from the other
    """A version's job ended with an error; the message has the job and the last line of its errors."""


@dataclass(frozen=True)
class Version:
    """A checkout of the repository, and the folder where its jobs write."""

    name: str
    checkout: Path
    folder: Path
    threads: int

    def run(self, *command: object) -> str:
        """Run Python in this checkout, and return what it printed; VersionFailed where it does not exit with 0."""
        told = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
        self.folder.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env=told | {"PYTHONPATH": str(self.checkout)},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            *_, said = ["", *ended.stderr.splitlines()]
            job = " ".join(map(str, command[:2]))
            raise VersionFailed(f"version {self.name}: {job} exits {ended.returncode}: {said}")
        return ended.stdout

    def check(self) -> None:
        """Refuse to go on where the interpreter takes another checkout's packages."""
        found = Path(self.run("-c", "import pipelines; print(pipelines.__file__)").strip()).resolve()
        if self.checkout.resolve() not in found.parents:
            raise DataError(f"{self.checkout}: Python imports {found} instead; unset what puts it first")

    def train(self, log: "Log", out: str, *more: object) -> Path:
        """Train without dropout and rehearsal; return the folder of the run."""
        argv = ["--config", log.recipe_of(self), "--data.log", log.path, "--out", self.folder / out]
        argv += ["--rehearsal", "null", "--training.threads", self.threads, "--metrics.resamples", 0]
        argv += ["--tracking.uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--tracking.register_as", "null"]
        self.run("-m", "pipelines.train_ctr", *argv, *more)
        return self.folder / out

    def predict(self, log: "Log", model: Path) -> Path:
        """Let a model predict every impression of the log; return the file of predictions."""
        out = self.folder / "evaluated"
        argv = ["--model", model / "model", "--data.log", log.path, "--data.bad_rows", "set_aside"]
        self.run("-m", "pipelines.evaluate", *argv, "--split", "null", "--metrics.resamples", 0, "--out", out)
        return out / "predictions.parquet"

    def build(self, model: Path, nights: Sequence[Path]) -> str:
        """Build a model's memories night by night; return the store's address."""
        store = f"parquet:{self.folder / 'memories'}"
        argv = ["--model", model, "--memories", store, "--dtype", "float32", "--num_buckets", 4]
        argv += ["--read.bad_rows", "set_aside", "--threads", self.threads, "--out", self.folder / "building"]
        for night in nights:
            self.run("-m", "pipelines.build_memory", *argv, "--log", night)
        return store

    def score(self, model: Path, store: str, candidates: Path, out: str) -> Path:
        """Score candidates from memories; return the file of scores."""
        argv = ["--model", model, "--memories", store, "--candidates", candidates, "--threads", self.threads]
        self.run("-m", "pipelines.score_batch", *argv, "--out", self.folder / out)
        return self.folder / out


@dataclass(frozen=True)
class Log:
    """A log and the recipe that describes it: a file, or the name of one that each version has its own of."""

    name: str
    path: Path
    recipe: Path

    def recipe_of(self, version: Version) -> Path:
        """Return the file that describes the log to a version."""
        return version.checkout / self.recipe  # an absolute path stays as it is

    @property
    def time(self) -> str:
        """The log's column of time."""
        recipe = yaml.safe_load((WORKING_TREE / self.recipe).read_text())
        return str(recipe.get("data", {}).get("columns", {}).get("time", "timestamp"))

    def cut(self, folder: Path) -> tuple[list[Path], Path]:
        """Write the log in nights of about equally many events, and candidates of its last night."""
        folder.mkdir(parents=True)
        events = pq.read_table(self.path)
        events = events.filter(events[self.time].is_valid()).sort_by(self.time)
        time = events[self.time]
        # Events of one moment lie in one night.
        bounds = [time[len(events) * number // NIGHTS] for number in range(1, NIGHTS)]
        night = pa.array(np.zeros(len(events), np.int64))
        for bound in bounds:
            night = pc.add(night, pc.greater(time, bound).cast("int64"))
        nights = [folder / f"night-{number}.parquet" for number in range(NIGHTS)]
        for number, path in enumerate(nights):
            pq.write_table(events.filter(pc.equal(night, number)), path)
        # Without their times: each is then of the moment after the newest memory.
        last = events.drop_columns([self.time]).slice(len(events) - min(CANDIDATES, len(events)))
        pq.write_table(last, folder / "candidates.parquet")
        return nights, folder / "candidates.parquet"
