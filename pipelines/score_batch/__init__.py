"""Score candidates from their users' memories alone, without the log.

python -m pipelines.score_batch --model runs/a/model --memories memories --candidates today.parquet --out scores.parquet

All columns and the order of the rows are kept; one column is added. A killed job resumes where it stopped.
"""

from pydantic import Field

from pipelines.cli import load_settings
from pipelines.scoring.settings import CandidateColumns
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.score_batch"


class ScoreBatch(Settings):
    """What to score, and with which model and memories."""

    model: str
    """Folder of a trained model or of its run, or models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/model."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""
    memories: str
    """Store of memories that build_memory made: a folder, parquet:FOLDER, or redis://HOST:PORT/DB?name=NAME."""
    candidates: str
    """Candidates: one Parquet file with a user and an item in each row, a folder of them or a glob."""
    columns: CandidateColumns = CandidateColumns()
    at: int | None = None
    """Time of candidates without a column of times, in the log's unit; by default one unit after the store's newest
    event."""
    out: str
    """Parquet file to write."""
    part_rows: int = Field(2_000_000, ge=1)
    """Rows scored between two saved parts: the most that a killed job has to score again."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI, for models:/ and runs:/."""


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        ScoreBatch,
        argv,
        prog=PROG,
        description="Score candidates from their users' memories alone, without the log.",
        examples=(
            f"{PROG} --model runs/quickstart --memories memories --candidates today.parquet --out scores.parquet",
            f"{PROG} --model models:/clicks@champion --memories redis://localhost --candidates in/ --out s.parquet",
        ),
    )
    from pipelines.score_batch.job import run  # late: what it imports takes seconds

    return run(settings)
