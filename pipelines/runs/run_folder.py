"""The folder that a job works in: one process at a time; a training run's has one config for good.

run.json        the settings that decide the run's result
metrics.json    the result; written last, so that it says the run is whole
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_store.errors import DataError
from feature_store.files import locked, write_json
from pipelines.cli import flatten

RUN, METRICS, _LOCK = "run.json", "metrics.json", ".lock"
_WORK = ("checkpoint", METRICS, "model")  # what a run has made once it trains
# Where the log lies, and how much memory or how many checkpoints a run may take, do not change what comes out.
_WITHOUT_EFFECT = ("data.log", "data.impressions.path", "data.memory_limit_mb", "training.checkpoint_minutes")
# A renamed kind keeps its first name in run.json and in fingerprints, so that runs made before are recognised.
_FIRST_NAMES = {("model.machine.kind", "slot_gru"): "rehearsal"}
_SOURCES = "model.sources"
_DECIDING = ("data", "from", "freeze_writer", "model", "rehearsal", "optimizer", "training", "metrics")


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by dotted key, the settings that a run's result depends on.

    >>> deciding({"optimizer": {"lr": 0.1}, "training": {"checkpoint_minutes": 5.0}, "out": "runs/a"})
    {'optimizer.lr': 0.1}
    """
    flat = flatten({name: block for name, block in settings.items() if name in _DECIDING})
    if flat.get(_SOURCES) == "{}":
        del flat[_SOURCES]  # 0.1 had no such key
    return {key: _FIRST_NAMES.get((key, value), value) for key, value in flat.items() if key not in _WITHOUT_EFFECT}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if it is not there; LockedError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"{folder}: another process is at work here; wait for it, or give another --out"
    with locked(folder / _LOCK, refusal):
        yield


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder for a run with these settings; DataError if it holds another run, LockedError if it is held."""
    with held(folder):
        found = _read(folder / RUN)
        # A start that failed on its data left no more than its settings: the mended command may take the folder.
        if found is not None and any((folder / name).exists() for name in _WORK):
            _refuse_another(folder, found.get("settings", {}), deciding(settings))
        else:
            write_json(folder / RUN, {"settings": deciding(settings)})
        yield


def read_metrics(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the result of a finished run, None where there is none of this fingerprint."""
    found = _read(folder / METRICS)
    return found if found is not None and found.get("fingerprint") == fingerprint else None


def result_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of a finished run with these settings, None where there is none."""
    run = _read(folder / RUN)
    return _read(folder / METRICS) if run is not None and run.get("settings") == deciding(settings) else None


def _refuse_another(folder: Path, before: dict[str, Any], settings: dict[str, Any]) -> None:
    different = [key for key in (*settings, *before) if settings.get(key) != before.get(key)]
    if different:
        key, more = different[0], len(set(different)) - 1
        there, here = (_name_today(key, values.get(key)) for values in (before, settings))
        others = f" (and {more} other settings differ)" if more else ""
        raise DataError(
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
        raise DataError(f"{path} is damaged: it is not JSON; delete it to go on from the checkpoint") from error
    return found if isinstance(found, dict) else None
