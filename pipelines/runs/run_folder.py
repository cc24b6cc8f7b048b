"""The output folder of a job: one process works in it at a time, and a training run's folder keeps one config.

run.json        the settings that decide the run's result
metrics.json    the result; written last: its presence means that the run is finished
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_store.files import locked, write_json
from pipelines.cli import flatten
from pipelines.errors import RunError

RUN, METRICS, _LOCK = "run.json", "metrics.json", ".lock"
_WORK = ("checkpoint", METRICS, "model")  # one of them exists once training has begun
# The path of the log, the memory limit and the interval of checkpoints do not change the result.
_WITHOUT_EFFECT = ("data.log", "data.impressions.path", "data.memory_limit_mb", "training.checkpoint_minutes")
# A renamed kind keeps its first name in run.json and in fingerprints, so that runs made before are recognised.
_FIRST_NAMES = {("model.machine.kind", "slot_gru"): "rehearsal"}
# Settings that earlier versions had not, at their defaults, are left out for the same reason.
_ADDED = {"model.sources": "{}", "optimizer.embeddings": "adam", "training.batch_impressions": 128}
_DECIDING = ("data", "from", "freeze_writer", "model", "rehearsal", "optimizer", "training", "metrics")


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run's result depends on, by dotted key.

    >>> deciding({"optimizer": {"lr": 0.1}, "training": {"checkpoint_minutes": 5.0}, "out": "runs/a"})
    {'optimizer.lr': 0.1}
    """
    flat = flatten({name: block for name, block in settings.items() if name in _DECIDING})
    return {
        key: _FIRST_NAMES.get((key, value), value)
        for key, value in flat.items()
        if key not in _WITHOUT_EFFECT and not (key in _ADDED and value == _ADDED[key])
    }


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock the folder, which is created if it does not exist; raises LockedError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"{folder}: another process is at work here; wait for it, or give another --out"
    with locked(folder / _LOCK, refusal):
        yield


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Lock the folder for a run with these settings.

    Raises:
        LockedError: another process holds it.
        RunError: it has a run with other settings.
    """
    with held(folder):
        run = _read(folder / RUN)
        # A run that failed on its data left only its settings: the corrected command may use the folder.
        if run is not None and any((folder / name).exists() for name in _WORK):
            _refuse_other_settings(folder, run.get("settings", {}), deciding(settings))
        else:
            write_json(folder / RUN, {"settings": deciding(settings)})
        yield


def read_metrics(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the metrics of a finished run; None if the folder has none with this fingerprint."""
    metrics = _read(folder / METRICS)
    return metrics if metrics is not None and metrics.get("fingerprint") == fingerprint else None


def finished_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a finished training run's settings, by dotted key, and its metrics; RunError if the folder has none."""
    run, metrics = _read(folder / RUN), _read(folder / METRICS)
    if run is None or metrics is None or "fingerprint" not in metrics:
        raise RunError(f"{folder}: no finished training run; expected {RUN} and {METRICS}, as train_ctr writes them")
    return run.get("settings", {}), metrics


def result_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metrics of a finished run; None if the folder has none with these settings."""
    run = _read(folder / RUN)
    return _read(folder / METRICS) if run is not None and run.get("settings") == deciding(settings) else None


def _refuse_other_settings(folder: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    different = [key for key in (*settings, *before) if settings.get(key) != before.get(key)]
    if different:
        key, more = different[0], len(set(different)) - 1
        there, here = (_name_today(key, values.get(key)) for values in (before, settings))
        others = f" (and {more} other settings differ)" if more else ""
        raise RunError(
            f"{folder} holds a run of another config: {key} is {there} there, {here} here"
            f"{others}; give another --out, or delete that folder to train anew"
        )


def _name_today(key: str, value: Any) -> Any:
    return next((now for (named, now), first in _FIRST_NAMES.items() if (named, first) == (key, value)), value)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged: it is not JSON; delete it to go on from the checkpoint") from error
    return found if isinstance(found, dict) else None
