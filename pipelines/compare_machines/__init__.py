"""Compare memory machines on the same logs, at the same size and with the same tuning.

python -m pipelines.compare_machines --data FOLDER --out runs/compare --jobs 2
python -m pipelines.compare_machines --quick --out runs/quick
"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from pipelines.cli import load_settings
from pipelines.comparison.names import MACHINE_KINDS, REHEARSAL, current_name, short_name
from pipelines.runs.settings import TrackingConfig
from rm_rec.config.base import Settings
from rm_rec.config.outside import PackageName

_NAME = re.compile(r"[\w .-]+")  # names runs' folders and MLflow's metrics
BASELINES = ("window_only", "mean_pool", "din_50", "din_full")
REHEARSED = ("associative", "slot_gru", "learned_queries", "rum", "ntm", "mimn", "dnc", "hpmn")
CandidateName = Annotated[str, AfterValidator(current_name)]
MEMORIES = (
    *(kind for kind in MACHINE_KINDS if kind != "mean_pool"),
    *("memn2n", "memnn", "tommy"),
)


class CompareMachines(Settings):
    """Which models to compare on which logs, and how."""

    data: str = "data"
    """Folder of the logs that the recipes name; if it has no synthetic.parquet, one is generated in --out."""
    logs: tuple[str, ...] = Field(("delicious_tags", "quickstart"), min_length=1)
    """Recipes of the logs on which every candidate is trained: names in pipelines/recipes, or YAML files."""
    logs_of_best: tuple[str, ...] = ("foursquare_nyc", "wikipedia_edits", "movielens", "assistments2017")
    """Recipes of further logs, on which only the baselines and the best candidates are trained."""
    num_best: int = Field(5, ge=1)
    """Number of best candidates, by the mean rank of their validation AUC on `logs`."""
    baselines: tuple[CandidateName, ...] = BASELINES
    """Models that are trained on every log, named as candidates are."""
    candidates: tuple[CandidateName, ...] = Field(MEMORIES, min_length=1)
    """Models to compare, trained without the rehearsal loss: kinds of machines (package.module:Class too), names in
    pipelines/recipes/models, or YAML files."""
    allow_package: tuple[PackageName, ...] = ()
    """Packages outside rm-rec whose code the models may run, for a candidate such as acme.machines:Fading."""
    rehearsed: tuple[CandidateName, ...] = REHEARSED
    """Candidates that are also trained with the rehearsal loss, at the learning rate that was chosen without it."""
    state_bytes: int = Field(2048, ge=1)
    """Bytes of one user's state in float16; every machine gets as many slots as fit."""
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field((0.003, 0.006), min_length=1)
    """Learning rates of the network to choose from: each candidate tries all of them on each log with the first seed,
    and the best validation AUC decides."""
    seeds: int = Field(3, ge=1)
    """Number of seeds (of weights, batches and training's negatives); held-out impressions are the same for all."""
    epochs: int = Field(4, ge=1)
    """Maximum number of epochs of each run."""
    quick: bool = False
    """Only check that everything runs: a small synthetic log, one epoch, two seeds, one learning rate. The results mean
    nothing."""
    resamples: int = Field(200, ge=0)
    """Number of bootstrap resamples of users for the intervals; 0 leaves intervals out."""
    cost_rounds: int = Field(5, ge=0)
    """Number of times that writing, reading and training are timed for each model; 0 leaves costs out."""
    jobs: int = Field(1, ge=0)
    """Number of training runs at a time, with one thread each; 0 only reports finished runs."""
    tracking: TrackingConfig = TrackingConfig(experiment="compare-machines")
    out: str = "runs/compare_machines"
    """Output folder of all runs and of the report; the same command resumes a killed comparison from it."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Return what is trained on each of `logs`: baselines, candidates, and the rehearsed candidates."""
        plain = (*self.baselines, *self.candidates)
        return (*plain, *(f"{name}{REHEARSAL}" for name in self.rehearsed if name in plain))

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        trained, rates = (*self.baselines, *self.candidates), tuple(f"{rate:g}" for rate in self.learning_rates)
        for names in ((*self.logs, *self.logs_of_best), trained, self.rehearsed, rates):
            folders = [*map(short_name, names)]
            odd = [folder for folder in folders if not _NAME.fullmatch(folder.removesuffix(REHEARSAL))]
            if odd:
                raise ValueError(f"{odd[0]!r} names a folder and figures: use letters, digits, spaces and _ . - only")
            twice = [folder for folder in folders if folders.count(folder) > 1]
            if twice:
                raise ValueError(f"{twice[0]} is named twice")
        return self

    @model_validator(mode="after")
    def _rehearsed_beside_the_same_without(self) -> Self:
        trained = (*self.baselines, *self.candidates)
        for name in trained:
            if name.endswith(REHEARSAL):
                plain = name.removesuffix(REHEARSAL)
                raise ValueError(f"{name}: give {plain} in candidates, and in rehearsed too: both are trained")
        if "rehearsed" in self.model_fields_set:  # the default may name more than the given candidates
            unknown = [name for name in self.rehearsed if name not in trained]
            if unknown:
                raise ValueError(f"rehearsed: {unknown[0]} is no candidate; expected some of {', '.join(trained)}")
        return self


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        CompareMachines,
        argv,
        prog="python -m pipelines.compare_machines",
        description="Compare memory machines on the same logs, at the same size and with the same tuning.",
        examples=(
            "python -m pipelines.compare_machines --data logs --out runs/compare --jobs 2",
            "python -m pipelines.compare_machines --data logs --logs movielens --logs_of_best '' --candidates ntm,dnc",
            "python -m pipelines.compare_machines --quick --out runs/quick",
        ),
    )
    from pipelines.compare_machines.job import run  # late: what it imports takes seconds

    return run(settings)
