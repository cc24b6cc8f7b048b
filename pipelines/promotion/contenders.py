"""The two models that the gate compares: how they were trained, and their predictions of the same impressions."""

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
from feature_store.files import replacing, sha256_of_json, write_text
from feature_store.logs.preparation import log_fingerprint
from feature_store.logs.prepared_log import MANIFEST, read_manifest
from pipelines import train_ctr
from pipelines.cli.recipes import RECIPES
from pipelines.errors import ModelError, RegistryError, TrackingError
from pipelines.evaluation.predictions import align
from pipelines.evaluation.settings import PredictionColumns
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.model_files import find_model
from pipelines.registry.model_registry import Registry, Version
from pipelines.runs import run_folder
from pipelines.training.score_log import score

_LEFT_OUT = ("from", "freeze_writer", "retention", "out")  # candidate's settings that the baseline does not take over
_MEAN_POOL = RECIPES / "models" / "mean_pool.yaml"


@dataclass(frozen=True)
class Contender:
    """A model in a comparison, and what is known of how it was trained."""

    name: str
    trained: TrainedModel
    data: DataConfig | None
    """Data config of its training run; None if that is not known."""
    data_sha256: str | None
    """The fingerprint of the log it was trained on."""
    started_from: str | None = None
    """The hash of the weights that its training started from."""
    settings: Mapping[str, Any] | None = None
    """All keys of its training run's config."""

    @property
    def weights_sha256(self) -> str:
        """Return the hash of its weights."""
        return self.trained.card.weights_sha256

    def data_on(self, log: str, impressions: str | None) -> DataConfig:
        """Return its training run's data config with the path of a log; raises RegistryError if it is not known."""
        if self.data is None:
            raise RegistryError(
                f"{self.name}: MLflow has no config of the run that trained it, which says what its impressions are "
                "and which are held out; train it with train_ctr --tracking.register_as NAME"
            )
        return on_log(self.data, log, impressions)


def on_log(data: DataConfig, log: str, impressions: str | None) -> DataConfig:
    """Return a data config with other paths of its log and of its impressions, if they are files of their own."""
    block = data.impressions
    if isinstance(block, ImpressionFile) and impressions is not None:
        block = block.model_copy(update={"path": impressions})
    return data.model_copy(update={"log": log, "impressions": block})


def of_version(registry: Registry, version: Version, allowed_packages: Collection[str] = ()) -> Contender:
    """Return a registered version's model, with what MLflow has stored of its training run."""
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
    """Read a baseline's model and, if it is in the folder of its run, what it was trained on."""
    folder = find_model(address, tracking_uri)
    prepared = folder.parent / "prepared"
    manifest = read_manifest(prepared) if (prepared / MANIFEST).is_file() else None
    path = Path(address)
    return Contender(
        name=f"baseline {path.parent.name if path.name == 'model' else path.name}",
        trained=load_model(folder, allowed_packages),
        data=manifest.config if manifest else None,
        data_sha256=manifest.fingerprint if manifest else None,
    )


def train_mean_pool(
    candidate: Contender,
    data: DataConfig,
    out: Path,
    tracking_uri: str,
    notify: Callable[[str], None],
    allowed_packages: Collection[str] = (),
) -> Contender:
    """Train a baseline that any memory should beat: the candidate's data and settings, but a mean_pool memory.

    Its folder is named by the hash of its settings, so that it is trained only once. Raises the errors of train_ctr.
    """
    assert candidate.settings is not None
    settings = {name: block for name, block in candidate.settings.items() if name not in _LEFT_OUT}
    settings["data"] = data.model_dump(mode="json")
    settings["allow_package"] = list(allowed_packages)  # allowed by this job's user, not by the candidate's
    settings["tracking"] = {**settings.get("tracking", {}), "uri": tracking_uri, "register_as": None}
    name = sha256_of_json([run_folder.deciding(settings), log_fingerprint(data)])[:8]
    folder = out / f"mean_pool-{name}"
    recipe = out / f"{folder.name}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    write_text(recipe, yaml.safe_dump(settings, sort_keys=False))
    notify(f"no champion yet: training a mean_pool model in {folder}, with the candidate's other settings, to compare")
    train_ctr.main(["--config", str(recipe), "--config", str(_MEAN_POOL), "--out", str(folder)])
    return of_folder(str(folder), tracking_uri, allowed_packages)


def score_both(
    champion: Contender,
    candidate: Contender,
    data: DataConfig,
    split: str,
    out: Path,
    notify: Callable[[str], None],
) -> tuple[pa.Table, pa.Table]:
    """Return both models' predictions of the same held-out impressions, champion first, in the same order of rows.

    `champion` is the registered champion or, if there is none, the baseline. `data` is the candidate's data config:
    both models predict its impressions and sampled negatives, each with its own
    features and vocabulary.

    Raises:
        ModelError: the champion predicts another kind of impressions, or does not fit the log.
        DataError: the log cannot be read, or the impressions differ.
    """
    champion_data = _data_of_champion(champion, data)
    same_features = champion_data == data
    after = score(candidate.trained, candidate.name, data, split, out / "prepared", notify)
    folder = out / ("prepared" if same_features else "prepared_champion")
    negatives_of = candidate.trained.vocabularies if isinstance(data.impressions, NextEvent) else None
    before = score(champion.trained, champion.name, champion_data, split, folder, notify, negatives_of)
    aligned = align(before, after, PredictionColumns())
    if isinstance(aligned, str):
        raise DataError(
            f"{champion.name} and {candidate.name} were not scored on the same impressions of {data.log}: {aligned}; "
            "they cannot be compared"
        )
    for name, table in zip(("champion", "candidate"), aligned, strict=True):
        with replacing(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")
    return aligned


def _data_of_champion(champion: Contender, data: DataConfig) -> DataConfig:
    """Return the candidate's data config with the features that the champion reads."""
    card = champion.trained.card
    theirs, ours = card.impressions, data.impressions
    if theirs.kind != ours.kind:
        raise ModelError(
            f"{champion.name} predicts impressions of kind {theirs.kind}, the candidate of kind {ours.kind}: they "
            "cannot be compared; register the candidate under a name of its own"
        )
    if not isinstance(theirs, NextEvent) and not isinstance(ours, NextEvent):
        context = {"context_features": theirs.context_features, "context_dense": theirs.context_dense}
        ours = ours.model_copy(update=context)
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
