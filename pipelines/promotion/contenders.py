"""The two models that a gate compares: where they come from, and what each predicts for the same impressions."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from feature_store.data_config import DataConfig, ImpressionFile, NextEvent
from feature_store.errors import DataError
from feature_store.files import replacing, write_text
from feature_store.logs.preparation import log_fingerprint
from feature_store.logs.prepared_log import MANIFEST, read_manifest
from pipelines import train_ctr
from pipelines.errors import ModelError, RegistryError, TrackingError
from pipelines.evaluation.predictions import PredictionColumns, align
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.model_files import find_model
from pipelines.registry.model_registry import Registry, Version
from pipelines.runs import run_folder
from pipelines.runs.json_hash import sha256_of_json
from pipelines.training.score_log import score

_LEFT_OUT = ("from", "freeze_writer", "retention", "out")  # of the candidate's settings, for a baseline from nothing
_MEAN_POOL = Path(__file__).parent.parent / "recipes" / "models" / "mean_pool.yaml"


@dataclass(frozen=True)
class Contender:
    """A model in a comparison, and what is known of how it was trained."""

    name: str
    trained: TrainedModel
    data: DataConfig | None
    """Of its training run; None where that is not known."""
    data_sha256: str | None
    """The fingerprint of the log it was trained on."""
    started_from: str | None = None
    """The hash of the weights that its training went on from."""
    settings: Mapping[str, Any] | None = None
    """Every key of its training run's config."""

    @property
    def weights(self) -> str:
        """Return the hash of its weights."""
        return self.trained.card.weights_sha256

    def data_on(self, log: str, impressions: str | None) -> DataConfig:
        """Return its training run's data config for a log; RegistryError where it is not known."""
        if self.data is None:
            raise RegistryError(
                f"{self.name}: MLflow has no config of the run that trained it, which says what its impressions are "
                "and which are held out; train it with train_ctr --tracking.register_as NAME"
            )
        return on_log(self.data, log, impressions)


def on_log(data: DataConfig, log: str, impressions: str | None) -> DataConfig:
    """Return a data config for another place of its log, and of its impressions where they are files of their own."""
    asked = data.impressions
    if isinstance(asked, ImpressionFile) and impressions is not None:
        asked = asked.model_copy(update={"path": impressions})
    return data.model_copy(update={"log": log, "impressions": asked})


def of_version(registry: Registry, version: Version, allowed_packages: Collection[str] = ()) -> Contender:
    """Fetch a registered version's model, and what its training run kept."""
    name = f"version {version.number}"
    try:
        trained = load_model(find_model(version.address, registry.uri), allowed_packages)
    except (ModelError, TrackingError) as error:
        raise ModelError(f"{version.address} cannot be used: {error}") from error
    run = registry.training_run(version)
    if run is None:
        return Contender(name, trained, None, None)
    data = _data_config(run.settings.get("data"), f"{version.address}: its run's config.yaml")
    return Contender(name, trained, data, run.data_sha256, run.started_from_sha256, run.settings)


def of_folder(address: str, tracking_uri: str, allowed_packages: Collection[str] = ()) -> Contender:
    """Read a baseline's model; its run's folder, where it lies in one, says what it was trained on."""
    folder = find_model(address, tracking_uri)
    prepared = folder.parent / "prepared"
    manifest = read_manifest(prepared) if (prepared / MANIFEST).is_file() else None
    place = Path(address)
    return Contender(
        name=f"baseline {place.parent.name if place.name == 'model' else place.name}",
        trained=load_model(folder, allowed_packages),
        data=manifest.config if manifest else None,
        data_sha256=manifest.fingerprint if manifest else None,
    )


def train_mean_pool(
    candidate: Contender,
    data: DataConfig,
    out: Path,
    tracking_uri: str,
    report: Callable[[str], None],
    allowed_packages: Collection[str] = (),
) -> Contender:
    """Train the floor that a memory has to beat on the candidate's data, with its settings in all but the memory.

    It is kept in a folder named by those settings, so that it is trained once. Raises DataError and SettingsError as
    train_ctr.
    """
    assert candidate.settings is not None
    settings = {name: block for name, block in candidate.settings.items() if name not in _LEFT_OUT}
    settings["data"] = data.model_dump(mode="json")
    settings["allow_package"] = list(allowed_packages)  # what this job's user allows, not what the candidate's did
    settings["tracking"] = {**settings.get("tracking", {}), "uri": tracking_uri, "register_as": None}
    name = sha256_of_json([run_folder.deciding(settings), log_fingerprint(data)])[:8]
    folder = out / f"mean_pool-{name}"
    recipe = out / f"{folder.name}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    write_text(recipe, yaml.safe_dump(settings, sort_keys=False))
    report(f"no champion yet: the candidate has to beat mean_pool, trained alike in {folder}")
    train_ctr.main(["--config", str(recipe), "--config", str(_MEAN_POOL), "--out", str(folder)])
    return of_folder(str(folder), tracking_uri, allowed_packages)


def score_both(
    champion: Contender,
    candidate: Contender,
    data: DataConfig,
    split: str,
    out: Path,
    report: Callable[[str], None],
) -> tuple[pa.Table, pa.Table]:
    """Return both models' predictions, champion first, row by row of the same held-out impressions of a log.

    `data` is the candidate's: its impressions are asked of both, also its sampled negatives; each model reads them by
    its own features and vocabulary. Raises DataError where that cannot be.
    """
    theirs = _asked_of(champion, data)
    alike = theirs == data
    after = score(candidate.trained, candidate.name, data, split, out / "prepared", report)
    folder = out / ("prepared" if alike else "prepared_champion")
    negatives_of = candidate.trained.vocabularies if isinstance(data.impressions, NextEvent) else None
    before = score(champion.trained, champion.name, theirs, split, folder, report, negatives_of)
    aligned = align(before, after, PredictionColumns())
    if isinstance(aligned, str):
        raise DataError(
            f"{champion.name} and {candidate.name} do not see the same impressions of {data.log}: {aligned}; "
            "they cannot be compared"
        )
    for name, table in zip(("champion", "candidate"), aligned, strict=True):
        with replacing(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")
    return aligned


def _asked_of(champion: Contender, data: DataConfig) -> DataConfig:
    """Return the candidate's data config with the features that the champion reads."""
    card = champion.trained.card
    theirs, ours = card.impressions, data.impressions
    if theirs.kind != ours.kind:
        raise ModelError(
            f"{champion.name} predicts impressions of kind {theirs.kind}, the candidate of kind {ours.kind}: these are "
            "other questions, which no gate can compare; register the candidate under a name of its own"
        )
    if not isinstance(theirs, NextEvent) and not isinstance(ours, NextEvent):
        known = {"context_features": theirs.context_features, "context_dense": theirs.context_dense}
        ours = ours.model_copy(update=known)
    columns = data.columns.model_copy(
        update={"event_features": card.columns.event_features, "item_features": card.columns.item_features}
    )
    return data.model_copy(update={"columns": columns, "impressions": ours})


def _data_config(block: Any, where: str) -> DataConfig:
    try:
        return DataConfig.model_validate(block)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RegistryError(
            f"{where} cannot be read: data.{'.'.join(map(str, first['loc']))}: {first['msg']}; train the model again"
        ) from error
