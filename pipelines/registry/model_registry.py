"""Versions of a registered model, the aliases that move between them, and the tags that explain the moves.

Serving follows the alias `champion`. It moves in one step, after the tags that explain the move are set and before the
alias `previous` moves. A move that was killed in between is completed by repeating it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, final

import mlflow
import yaml

from pipelines.errors import RegistryError, TrackingError, first_line

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
# Tags of a version; MOVED is a tag of a run.
BEFORE, PROMOTED_AT, ROLLED_BACK_AT = "previous_champion", "promoted_at", "rolled_back_at"
SPACE, GATE, GATE_RUN, MOVED = "memory_space", "gate", "gate_run", "moved"
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow returns the second for a missing alias
Result = TypeVar("Result")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    run_id: str | None
    """Id of the run that trained it."""
    tags: Mapping[str, str]

    @property
    def address(self) -> str:
        """The address that jobs accept as --model."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class TrainingRun:
    """What MLflow has stored of the run that trained a version."""

    settings: Mapping[str, Any]
    """All keys of its config."""
    data_sha256: str | None
    """The fingerprint of the log it was trained on."""
    started_from_sha256: str | None
    """Hash of the weights that it started from; None if they were random."""


@final
class Registry:
    """One registered model in MLflow; raises TrackingError if MLflow refuses a request."""

    def __init__(self, uri: str, name: str) -> None:
        for logger in ("alembic", "mlflow"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        self.uri, self.name = uri, name
        self._client = self._call(partial(mlflow.MlflowClient, uri))
        self._call(partial(self._client.get_registered_model, name))

    def at(self, alias: str) -> Version | None:
        """Return the version that has an alias; None if there is none."""
        return self._find(partial(self._client.get_model_version_by_alias, self.name, alias))

    def training_run(self, version: Version) -> TrainingRun | None:
        """Return what is stored of the run that trained a version; None if it has no config of train_ctr."""
        if not version.run_id:
            return None
        try:
            tags = self._client.get_run(version.run_id).data.tags
            with TemporaryDirectory() as folder:
                file = self._client.download_artifacts(version.run_id, "config.yaml", folder)
                settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (mlflow.exceptions.MlflowException, OSError, yaml.YAMLError):  # it was deleted, or another tool made it
            return None
        if not isinstance(settings, dict):
            return None
        return TrainingRun(settings, tags.get("data_sha256"), tags.get("started_from_sha256"))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version; one with an empty value is removed."""
        for key, value in tags.items():
            if value:
                self._call(partial(self._client.set_model_version_tag, self.name, version.number, key, value))
            elif key in version.tags:
                self._call(partial(self._client.delete_model_version_tag, self.name, version.number, key))

    def promote(self, candidate: Version, champion: Version | None, tags: Mapping[str, str]) -> None:
        """Make a candidate the champion; raises RegistryError if `champion` is no longer the champion."""
        current = self.at(CHAMPION)
        if (current and current.number) != (champion and champion.number):
            was, now = (f"version {version.number}" if version else "none" for version in (champion, current))
            raise RegistryError(
                f"{self.name}: the champion was {was} and now is {now}; another job moved it: run again"
            )
        before = champion.number if champion else ""
        self.tag(candidate, {**tags, BEFORE: before, PROMOTED_AT: moment(), ROLLED_BACK_AT: ""})
        self._move(CHAMPION, candidate.number)
        self.settle()

    def before(self, champion: Version) -> Version:
        """Return the previous champion.

        Raises:
            RegistryError: no previous champion is recorded.
            TrackingError: it was deleted.
        """
        number = champion.tags.get(BEFORE)
        if not number:
            raise RegistryError(
                f"{self.name}: version {champion.number} is the first champion on record: there is none to go back to; "
                f"to move the alias {CHAMPION} all the same, do so in MLflow"
            )
        return _version(self._call(partial(self._client.get_model_version, self.name, number)))

    def roll_back(self, champion: Version, target: Version) -> None:
        """Make `target`, the previous champion, the champion again."""
        self.tag(champion, {ROLLED_BACK_AT: moment()})
        self._move(CHAMPION, target.number)
        self.settle()
        # Clear the stale tag: the two versions may swap again, and would then name each other as predecessor.
        self.tag(champion, {BEFORE: ""})

    def half_rolled_back(self) -> bool:
        """Return whether a roll-back was interrupted: only then both aliases name the same version."""
        champion, previous = self.at(CHAMPION), self.at(PREVIOUS)
        return champion is not None and previous is not None and champion.number == previous.number

    def settle(self) -> None:
        """Point `previous` at the version before the champion: the last step of a move, also of an interrupted one."""
        champion, previous = self.at(CHAMPION), self.at(PREVIOUS)
        before = champion.tags.get(BEFORE, "") if champion else ""
        if before and self._find(partial(self._client.get_model_version, self.name, before)) is None:
            before = ""  # it was deleted
        if before != (previous.number if previous else ""):
            self._move(PREVIOUS, before)

    def finish_run(self, champion: Version) -> None:
        """Tag the run of a champion's gate as moved, if the job was killed before it did so."""
        run_id = champion.tags.get(GATE_RUN)
        if run_id is None or champion.tags.get(GATE) != "passed":  # the alias was set by hand
            return
        try:
            if self._client.get_run(run_id).data.tags.get(MOVED) != "true":
                self._client.set_tag(run_id, MOVED, "true")
                self._client.set_terminated(run_id)
        except mlflow.exceptions.MlflowException:
            pass  # the run was deleted; the champion does not depend on it

    def _move(self, alias: str, number: str) -> None:
        self._call(partial(_set_alias, self._client, self.name, alias, number))

    def _find(self, request: Callable[[], Any]) -> Version | None:
        try:
            return _version(request())
        except mlflow.exceptions.MlflowException as error:
            if error.error_code in _NOT_FOUND:
                return None
            raise self._refused(error) from error

    def _call(self, request: Callable[[], Result]) -> Result:
        try:
            return request()
        except Exception as error:  # stores raise errors of their own libraries
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> TrackingError:
        return TrackingError(f"model {self.name!r}: MLflow at {self.uri}: {first_line(error)}")


def moment() -> str:
    """Return the present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _set_alias(client: mlflow.MlflowClient, name: str, alias: str, number: str) -> None:
    """Point an alias at a version; an empty number removes it."""
    if number:
        client.set_registered_model_alias(name, alias, number)
    else:
        client.delete_registered_model_alias(name, alias)


def _version(entity: Any) -> Version:
    return Version(entity.name, str(entity.version), entity.run_id or None, dict(entity.tags))
