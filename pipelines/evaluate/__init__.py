"""Evaluate predicted click probabilities of any model, with intervals, and compare models on the same impressions.

python -m pipelines.evaluate --predictions mine.parquet --out evaluation
python -m pipelines.evaluate --predictions old.parquet --predictions new.parquet --out evaluation
python -m pipelines.evaluate --model runs/mine/model --data.log my_log.parquet --out evaluation
"""

from typing import Self

from pydantic import model_validator

from feature_store.data_config import DataConfig
from pipelines.cli import load_settings
from pipelines.evaluation.settings import MetricsConfig, PredictionColumns
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName


class EvaluateConfig(Settings):
    """What to evaluate, and how."""

    predictions: tuple[str, ...] = ()
    """Parquet file or folder of predictions; give the option again to compare others with the first."""
    model: str | None = None
    """Trained model that scores `data`, instead of reading --predictions: its folder, its run's folder, or an address
    in MLflow such as models:/NAME@ALIAS."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI of a model in MLflow."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the model may run, for a `kind` such as acme.machines:Fading."""
    data: DataConfig | None = None
    """Log that the model scores. Columns and impressions are the model's unless given; the vocabulary is always the
    model's."""
    out: str | None = None
    """Output folder for metrics.json, report.md, the plots and, with --model, predictions.parquet; null only prints the
    tables."""
    split: str | None = "test"
    """Split whose rows are evaluated, if the file has a column of splits; null for all rows."""
    columns: PredictionColumns = PredictionColumns()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _one_source_of_predictions(self) -> Self:
        if (self.model is None) != (self.data is None):
            raise ValueError("a model scores a log: give both --model FOLDER and --data.log PATH")
        if bool(self.predictions) == (self.model is not None):
            raise ValueError("give either --predictions FILE, or --model FOLDER and --data.log PATH")
        if self.model is not None and self.out is None:
            raise ValueError("--model needs --out FOLDER, for its predictions")
        return self


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    config = load_settings(
        EvaluateConfig,
        argv,
        prog="python -m pipelines.evaluate",
        description="Evaluate predicted click probabilities, and compare models on the same impressions.",
        examples=(
            "python -m pipelines.evaluate --predictions mine.parquet --out evaluation",
            "python -m pipelines.evaluate --predictions old.parquet --predictions new.parquet",
            "python -m pipelines.evaluate --model runs/mine/model --data.log my_log.parquet --out evaluation",
        ),
    )
    from pipelines.evaluate.job import run  # late: what it imports takes seconds

    return run(config)
