"""Measure how far back a trained model's memory reaches: recollection and click AUC by age, in segments.

python -m pipelines.retention --run runs/mine
python -m pipelines.retention --run runs/din_50
python -m pipelines.retention --run runs/mine --compare_with runs/din_50

The run is the --out folder of `pipelines.train_ctr`; its model and predictions are not changed.
"""

from pydantic import Field

from pipelines.cli import load_settings
from pipelines.evaluation.settings import RetentionConfig
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.retention"


class MeasureRetention(Settings):
    """The run to measure, and how."""

    run: str
    """Folder of a finished training run: the --out of train_ctr."""
    compare_with: str | None = None
    """Folder of another run of the same log whose curves are drawn too; run it through this job first."""
    retention: RetentionConfig = RetentionConfig()
    resamples: int = Field(200, ge=0, le=100_000)
    """Number of bootstrap resamples of the users for the intervals; 0 leaves intervals out."""
    device: str = "cpu"
    """Device to compute on: cpu, cuda, cuda:1 and so on."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    tracking_uri: str | None = "sqlite:///mlflow.db"
    """MLflow tracking URI; curves and figures are added to the training run there. null: write to the folder only."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        MeasureRetention,
        argv,
        prog=PROG,
        description="Measure how far back a trained model's memory reaches: recollection and click AUC by age.",
        examples=(
            f"{PROG} --run runs/mine",
            f"{PROG} --run runs/din_50",
            f"{PROG} --run runs/mine --compare_with runs/din_50",
        ),
    )
    from pipelines.retention.job import run  # late: what it imports takes seconds

    return run(settings)
