"""Candidates of a comparison: memory machines and model recipes by name, each a training run over a log's recipe.

NAME is a recipe of pipelines/recipes/models, else a machine's kind (package.module:Class too), else a YAML file;
NAME+rehearsal trains the same with the rehearsal loss.
"""

from collections.abc import Iterable
from pathlib import Path

from feature_store.errors import DataError
from pipelines.cli import load_settings
from pipelines.cli.recipes import RECIPES
from pipelines.comparison.names import MACHINE_KINDS, REHEARSAL, is_file
from pipelines.errors import SettingsError
from pipelines.train_ctr import TrainCtr
from rm_rec.config.outside import is_class_path
from rm_rec.errors import ConfigError
from rm_rec.machines.sizes import fit_state
from rm_rec.resolved import resolved_config

MODELS = RECIPES / "models"
SYNTHETIC = "synthetic.parquet"  # a log that is generated if the folder of logs has none


def log_file(log: str, data: Path, out: Path) -> Path:
    """Return the path of a recipe's log: in the folder of logs or, for a generated one, in `out`."""
    name = Path(_settings(*_recipe(log)).data.log).name
    path = data / name
    if path.exists() or name != SYNTHETIC:
        return path
    return out / SYNTHETIC


def candidate(name: str, log: str, log_path: Path, state_bytes: int, arguments: Iterable[str]) -> TrainCtr:
    """Return the settings of a candidate's training run on a log, with a state of at most `state_bytes`.

    `arguments` are further ones of train_ctr. Raises SettingsError if there is no such candidate, ConfigError if its
    machine cannot be made so small.
    """
    plain = name.removesuffix(REHEARSAL)
    rehearsal = "{}" if name.endswith(REHEARSAL) else "null"  # {}: as in the recipes, else the default
    overrides = ("--data.log", str(log_path), *arguments, "--rehearsal", rehearsal)
    settings = _settings(*_recipe(log), *_model(plain), *overrides)
    model = resolved_config(settings.model, settings.allow_package)
    machine = fit_state(model.machine, model.token_dim, state_bytes)
    return settings.model_copy(update={"model": model.model_copy(update={"machine": machine})})


def check_names(
    logs: Iterable[str], names: Iterable[str], data: Path, out: Path, state_bytes: int, arguments: Iterable[str] = ()
) -> None:
    """Raise DataError or SettingsError, before anything is trained, if a log or a candidate does not exist."""
    for log in logs:
        path = log_file(log, data, out)
        if not path.exists() and path.name != SYNTHETIC:
            raise DataError(f"{path}: the log of {log} does not exist; expected {path.name} in --data, {data}")
        for name in names:
            try:
                candidate(name, log, path, state_bytes, arguments)
            except ConfigError as error:
                raise SettingsError(f"{name}: {error}") from error


def _settings(*arguments: str) -> TrainCtr:
    return load_settings(TrainCtr, arguments, prog="", description="")


def _recipe(log: str) -> tuple[str, str]:
    path = Path(log) if is_file(log) else RECIPES / f"{log}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise SettingsError(f"{log}: no such recipe; expected one of {names}, or a YAML file")
    return ("--config", str(path))


def _model(name: str) -> tuple[str, ...]:
    if is_file(name) and Path(name).is_file():
        return ("--config", name)
    if (MODELS / f"{name}.yaml").is_file():
        return ("--config", str(MODELS / f"{name}.yaml"))
    if name in MACHINE_KINDS or is_class_path(name):
        return ("--model.machine.kind", name)
    names = ", ".join(sorted({*MACHINE_KINDS, *(file.stem for file in MODELS.glob("*.yaml"))}))
    raise SettingsError(f"{name}: no such candidate; expected a YAML file, package.module:Class, or one of {names}")
