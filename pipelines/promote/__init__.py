"""Make the candidate the champion if it is significantly better on held-out impressions, or roll back.

python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories
python -m pipelines.promote --name clicks --log logs/all.parquet --memories memories --dry-run
python -m pipelines.promote --name clicks --rollback

Exit codes: 0 the alias was moved, or the candidate is the champion already; 3 refused, with the numbers that missed
their bounds; 2 bad input.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.cli import load_settings
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

PROG = "python -m pipelines.promote"


class Promote(Settings):
    """Which model to promote, on what data, and the bounds that it has to meet."""

    name: str = Field(min_length=1)
    """Name of the registered model whose aliases are moved."""
    log: str | None = None
    """Log that the candidate was trained on, by its present path: its held-out impressions decide."""
    impressions: str | None = None
    """Path of the impressions, if they are files of their own; null is the path of the candidate's training run."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the models may run, for a `kind` such as acme.machines:Fading."""
    split: Literal["validation", "test"] = "test"
    """Split to compare on, as the candidate's training run split the impressions."""
    min_gain: float = Field(0.0, ge=-1.0, le=1.0)
    """Bound of the AUC gain: the lower end of its 95 % interval over users must be above this. A negative bound accepts
    a small loss."""
    max_calibration_loss: float = Field(0.005, ge=0.0, le=1.0)
    """Maximum by which the candidate's expected calibration error may exceed the champion's."""
    max_ratio_loss: float = Field(0.02, ge=0.0)
    """Maximum by which the candidate's |predicted / actual clicks - 1| may exceed the champion's."""
    memories: str | None = None
    """Store that will serve the candidate: it must have memories of the candidate's memory space."""
    allow_unbuilt: bool = False
    """Promote a candidate without memories; build them before anything is served from the alias."""
    allow_other_log: bool = False
    """Compare models that were trained on another log or split. Safe only if the log has merely grown since."""
    allow_rolled_back: bool = False
    """Promote a version although it was rolled back before."""
    baseline: str | None = None
    """Model to beat if there is no champion yet: its folder or that of its run. By default a mean_pool model is trained
    for this."""
    rollback: bool = False
    """Make the previous champion the champion again; nothing is measured."""
    dry_run: bool = False
    """Decide and print the decision, but move no alias."""
    resamples: int = Field(1000, ge=100, le=100_000)
    """Number of bootstrap resamples of users for the interval; both models get the same resamples."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    calibration_bins: int = Field(20, ge=1)
    """Number of bins, of equal numbers of impressions each, for the calibration error."""
    threads: int = Field(0, ge=0)
    """Number of CPU threads; 0 is PyTorch's default."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI."""
    experiment: str = Field("promotions", min_length=1)
    """Name of the MLflow experiment in which each decision is logged with its evidence."""
    out: str = "runs/promote"
    """Output folder for report.md, metrics.json, the plots, both models' predictions and the prepared log."""

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.log is None and not self.rollback:
            raise ValueError("log: required, except with --rollback; give the log that the candidate was trained on")
        return self


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        Promote,
        argv,
        prog=PROG,
        description="Make the candidate the champion if it is better on held-out impressions, or roll back.",
        examples=(
            f"{PROG} --name clicks --log logs/all.parquet --memories memories",
            f"{PROG} --name clicks --log logs/all.parquet --memories memories --dry-run",
            f"{PROG} --name clicks --rollback",
        ),
    )
    from pipelines.promote.job import run  # late: what it imports takes seconds

    return run(settings)
