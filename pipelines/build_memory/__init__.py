"""Fold a log's events into each user's memory: all events the first time, afterwards only the new ones.

python -m pipelines.build_memory --model runs/a/model --memories memories --log logs/day=2026-11-20

A store records the content hashes of the files that it has consumed and skips them: a killed build resumes where it
stopped, and running a build twice changes nothing the second time.
"""

from pydantic import Field

from pipelines.building.settings import LatePolicy, ReadConfig
from pipelines.cli import load_settings
from pipelines.models.settings import StateType
from pipelines.runs.allocator import keep_freed_memory
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.build_memory"


class BuildMemory(Settings):
    """Which log to fold with which model, and where the memories are stored."""

    model: str
    """Folder of a trained model or of its run, or models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/model."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""
    memories: str
    """Store of memories: a folder (LMDB), parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME; created if it does not
    exist."""
    log: str
    """Log of events: one Parquet file, a folder of them or a glob; files that were consumed before are skipped."""
    late: LatePolicy = "set-aside"
    """What to do with events older than the newest in their user's memory: write them to OUT/late and count them, or
    rebuild that user's memory from the log, which must then have every file that the store ever consumed."""
    dtype: StateType = "float16"
    """Number type of the states in a new store; counts and other parts that must be exact keep their own type."""
    num_buckets: int = Field(64, ge=1, le=65_536)
    """Number of buckets that a new store hashes its users into; a bucket's memories are written in one transaction."""
    read: ReadConfig = ReadConfig()
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI, for models:/ and runs:/."""
    out: str = "runs/build_memory"
    """Output folder for metrics.json, late events and rejected rows, and for the sorted log while a build runs."""


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        BuildMemory,
        argv,
        prog=PROG,
        description="Fold a log's events into each user's memory: all the first time, afterwards only the new ones.",
        examples=(
            f"{PROG} --model runs/quickstart --memories memories --log data/synthetic.parquet",
            f"{PROG} --model models:/clicks@champion --memories memories --log logs/day=2026-11-20",
        ),
    )
    keep_freed_memory()
    from pipelines.build_memory.job import run  # late: what it imports takes seconds

    return run(settings)
