"""Versions of a registered model and who is the champion: aliases that move, tags that say why.

The alias `champion` is what serving follows, and it alone decides: it moves in one step, after the tags that explain
the move and before the alias `previous`. So one killed in between is put right by doing it again.
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
# Tags of a version, but for the last, which is a run's.
BEFORE, PROMOTED_AT, ROLLED_BACK_AT = "previous_champion", "promoted_at", "rolled_back_at"
SPACE, GATE, GATE_RUN, MOVED = "memory_space", "gate", "gate_run", "moved"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # a model without the alias gives the second
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    run_id: str | None
    """Of the run that trained it."""
    tags: Mapping[str, str]

    @property
    def address(self) -> str:
        """What every job takes for --model."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class TrainingRun:
    """What MLflow keeps of the run that trained a version."""

    settings: Mapping[str, Any]
    """Its config, every key."""
    data_sha256: str | None
    """The fingerprint of the log it was trained on."""
    started_from_sha256: str | None
    """Of the weights that it went on from; None where it started from nothing."""


@final
class Registry:
    """One registered model in MLflow; what MLflow refuses is a TrackingError of one line."""

    def __init__(self, uri: str, name: str) -> None:
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.uri, self.name = uri, name
        self._client = self._ask(partial(mlflow.MlflowClient, uri))
        self._ask(partial(self._client.get_registered_model, name))

    def at(self, alias: str) -> Version | None:
        """Return the version that an alias names, None where there is none."""
        return self._find(partial(self._client.get_model_version_by_alias, self.name, alias))

    def training_run(self, version: Version) -> TrainingRun | None:
        """Return what is kept of the run that trained a version; None where it kept no config of train_ctr's."""
        if not version.run_id:
            return None
        try:
            tags = self._client.get_run(version.run_id).data.tags
            with TemporaryDirectory() as folder:
                file = self._client.download_artifacts(version.run_id, "config.yaml", folder)
                settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (mlflow.exceptions.MlflowException, OSError, yaml.YAMLError):  # deleted, or a run of another tool
            return None
        if not isinstance(settings, dict):
            return None
        return TrainingRun(settings, tags.get("data_sha256"), tags.get("started_from_sha256"))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version; an empty one is taken away."""
        for key, value in tags.items():
            if value:
                self._ask(partial(self._client.set_model_version_tag, self.name, version.number, key, value))
            elif key in version.tags:
                self._ask(partial(self._client.delete_model_version_tag, self.name, version.number, key))

    def promote(self, candidate: Version, champion: Version | None, tags: Mapping[str, str]) -> None:
        """Make a candidate the champion, where the champion still is the one that it was compared with."""
        now = self.at(CHAMPION)
        if (now and now.number) != (champion and champion.number):
            was, found = (f"version {one.number}" if one else "none" for one in (champion, now))
            raise RegistryError(
                f"{self.name}: the champion was {was} and now is {found}; another job moved it: run again"
            )
        before = champion.number if champion else ""
        self.tag(candidate, {**tags, BEFORE: before, PROMOTED_AT: moment(), ROLLED_BACK_AT: ""})
        self._move(CHAMPION, candidate.number)
        self.settle()

    def before(self, champion: Version) -> Version:
        """Return the version that was champion before; RegistryError where none is on record, or it was deleted."""
        number = champion.tags.get(BEFORE)
        if not number:
            raise RegistryError(
                f"{self.name}: version {champion.number} is the first champion on record: there is none to go back to; "
                f"to move the alias {CHAMPION} all the same, do so in MLflow"
            )
        return _version(self._ask(partial(self._client.get_model_version, self.name, number)))

    def roll_back(self, champion: Version, target: Version) -> None:
        """Make the version before the champion again."""
        self.tag(champion, {ROLLED_BACK_AT: moment()})
        self._move(CHAMPION, target.number)
        self.settle()
        # The two may take turns: what was before this one then is no more what was before it now.
        self.tag(champion, {BEFORE: ""})

    def half_rolled_back(self) -> bool:
        """Say whether a roll-back was broken off: only then both aliases name one version."""
        champion, previous = self.at(CHAMPION), self.at(PREVIOUS)
        return champion is not None and previous is not None and champion.number == previous.number

    def settle(self) -> None:
        """Point `previous` at the version before the champion: the end of a move, also of one that was broken off."""
        champion, previous = self.at(CHAMPION), self.at(PREVIOUS)
        before = champion.tags.get(BEFORE, "") if champion else ""
        if before and self._find(partial(self._client.get_model_version, self.name, before)) is None:
            before = ""  # it was deleted
        if before != (previous.number if previous else ""):
            self._move(PREVIOUS, before)

    def finish_run(self, champion: Version) -> None:
        """Say in the run of a champion's gate that it was moved, where the job was killed before it said so."""
        run_id = champion.tags.get(GATE_RUN)
        if run_id is None or champion.tags.get(GATE) != "passed":  # the alias was set by hand
            return
        try:
            if self._client.get_run(run_id).data.tags.get(MOVED) != "true":
                self._client.set_tag(run_id, MOVED, "true")
                self._client.set_terminated(run_id)
        except mlflow.exceptions.MlflowException:
            pass  # the run was deleted since: that is the user's to do, and the champion is what counts

    def _move(self, alias: str, number: str) -> None:
        self._ask(partial(_set_alias, self._client, self.name, alias, number))

    def _find(self, question: Callable[[], Any]) -> Version | None:
        try:
            return _version(question())
        except mlflow.exceptions.MlflowException as error:
            if error.error_code in _NOT_THERE:
                return None
            raise self._refused(error) from error

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except Exception as error:  # stores raise errors of their own libraries
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> TrackingError:
        return TrackingError(f"model {self.name!r}: MLflow at {self.uri}: {first_line(error)}")


def moment() -> str:
    """Name this moment, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _set_alias(client: mlflow.MlflowClient, name: str, alias: str, number: str) -> None:
    """Point an alias at a version; without a number it is taken away."""
    if number:
        client.set_registered_model_alias(name, alias, number)
    else:
        client.delete_registered_model_alias(name, alias)


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or None, dict(found.tags))
