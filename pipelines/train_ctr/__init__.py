"""Train a click model on a log, evaluate it on held-out impressions, and register it.

python -m pipelines.train_ctr --config pipelines/recipes/quickstart.yaml --data.log data/synthetic.parquet --out runs/a
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from feature_store.data_config import DataConfig, NextEvent
from pipelines.cli import load_settings
from pipelines.evaluation.settings import MetricsConfig
from pipelines.runs.allocator import keep_freed_memory
from pipelines.runs.settings import TrackingConfig
from pipelines.training.settings import PREDICTED_COLUMNS, OptimizerConfig, TrainingConfig
from rm_rec.config import ModelConfig, RehearsalConfig
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

DESCRIPTION = "Train a click model on a log, evaluate it on held-out impressions, and register it."
PROG = "python -m pipelines.train_ctr"
EXAMPLES = (
    f"{PROG} --config pipelines/recipes/quickstart.yaml --data.log data/synthetic.parquet --out runs/quickstart",
    f"{PROG} --config pipelines/recipes/next_event.yaml --data.log my_log.parquet --out runs/mine --optimizer.lr 0.001",
    f"{PROG} --from models:/clicks@champion --freeze-writer --data.log new_log.parquet --out runs/tuned",
)


class TrainCtr(Settings):
    """Settings of one training run."""

    moved: ClassVar[Mapping[str, str]] = {
        "retention": "retention is measured by a job of its own: python -m pipelines.retention --run FOLDER",
    }
    data: DataConfig
    start_from: str | None = Field(None, alias="from")
    """Trained model to start from instead of random weights: a folder, models:/NAME@ALIAS or runs:/RUN_ID/model. Its
    columns, impressions, vocabulary and model settings are kept; give all others, such as data.split, again."""
    freeze_writer: bool = False
    """Train only reader, window attention, click head and context, so that existing memories stay valid; embeddings of
    events, encoder and machine are frozen, and rehearsal is off. Needs --from."""
    model: ModelConfig = ModelConfig()
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""
    rehearsal: RehearsalConfig | None = RehearsalConfig()
    """Auxiliary loss that trains the memory to recollect past events; null trains without it."""
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    metrics: MetricsConfig = MetricsConfig()
    out: str = "runs/train_ctr"
    """Output folder for checkpoints, model, predictions.parquet and metrics.json; the same command resumes a killed run
    from it."""

    @model_validator(mode="after")
    def _carried_columns_are_as_named(self) -> Self:
        carried = () if isinstance(self.data.impressions, NextEvent) else self.data.impressions.carry
        reserved = [name for name in carried if name in PREDICTED_COLUMNS]
        if reserved:
            raise ValueError(
                f"data.impressions.carry: {reserved[0]!r} names a column of predictions.parquet itself: rename yours"
            )
        return self

    @model_validator(mode="after")
    def _something_is_frozen(self) -> Self:
        if self.freeze_writer and self.start_from is None:
            raise ValueError("freeze_writer: there is nothing to freeze: name the model to start from with --from")
        return self

    @model_validator(mode="after")
    def _rehearsal_fits_the_model(self) -> Self:
        if self.rehearsal is not None and self.model.token_dim % self.rehearsal.num_heads:
            raise ValueError(
                f"rehearsal.num_heads is {self.rehearsal.num_heads}, which does not divide model.token_dim "
                f"{self.model.token_dim}"
            )
        return self


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(TrainCtr, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES)
    keep_freed_memory()
    from pipelines.train_ctr.job import run  # late: what it imports takes seconds

    return run(settings)
