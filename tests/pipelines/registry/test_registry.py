"""Aliases move in one step with tags that explain it, and what was broken off in between is put right."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from pipelines.errors import RegistryError, TrackingError
from pipelines.registry import model_registry as registry_module
from pipelines.registry.model_registry import CHAMPION, PREVIOUS, ROLLED_BACK_AT, Registry, Version


@pytest.fixture
def registry(tracking_uri: str, tmp_path: Path) -> Registry:
    """Return a model of three versions."""
    client = mlflow.MlflowClient(tracking_uri)
    client.create_registered_model(tmp_path.name)
    for _ in range(3):
        client.create_model_version(tmp_path.name, str(tmp_path), None)
    return Registry(tracking_uri, tmp_path.name)


@pytest.fixture
def version(tracking_uri: str, registry: Registry) -> Callable[[int], Version]:
    def of(number: int) -> Version:
        found = mlflow.MlflowClient(tracking_uri).get_model_version(registry.name, str(number))
        return Version(registry.name, str(number), found.run_id or None, dict(found.tags))

    return of


def standing(registry: Registry) -> tuple[str | None, str | None]:
    """Name the champion and the previous one."""
    found = [registry.at(alias) for alias in (CHAMPION, PREVIOUS)]
    return tuple(one.number if one else None for one in found)


def promote(registry: Registry, candidate: Version, champion: Version | None) -> None:
    registry.promote(candidate, champion, {"gate": "passed"})


def test_champions_follow_each_other_and_go_back_one_by_one(
    registry: Registry, version: Callable[[int], Version]
) -> None:
    assert standing(registry) == (None, None)
    promote(registry, version(1), None)
    assert standing(registry) == ("1", None)
    promote(registry, version(2), version(1))
    promote(registry, version(3), version(2))
    assert standing(registry) == ("3", "2")
    tags = version(3).tags
    assert tags["gate"] == "passed"
    assert tags["previous_champion"] == "2"
    assert tags["promoted_at"].endswith("+00:00")
    registry.roll_back(version(3), registry.before(version(3)))
    assert standing(registry) == ("2", "1")
    assert ROLLED_BACK_AT in version(3).tags
    registry.roll_back(version(2), registry.before(version(2)))
    assert standing(registry) == ("1", None)
    with pytest.raises(RegistryError, match="version 1 is the first champion on record: there is none to go back to"):
        registry.before(version(1))


def test_two_that_take_turns_are_not_gone_back_through_for_ever(
    registry: Registry, version: Callable[[int], Version]
) -> None:
    promote(registry, version(1), None)
    promote(registry, version(2), version(1))
    promote(registry, version(1), version(2))
    assert standing(registry) == ("1", "2")
    registry.roll_back(version(1), registry.before(version(1)))
    registry.roll_back(version(2), registry.before(version(2)))
    assert standing(registry) == ("1", None)


def test_promoted_again_a_version_is_not_marked_as_rolled_back(
    registry: Registry, version: Callable[[int], Version]
) -> None:
    promote(registry, version(1), None)
    promote(registry, version(2), version(1))
    registry.roll_back(version(2), version(1))
    promote(registry, version(2), version(1))
    assert standing(registry) == ("2", "1")
    assert ROLLED_BACK_AT not in version(2).tags


def test_a_champion_that_another_job_moved_is_not_overrun(
    registry: Registry, version: Callable[[int], Version]
) -> None:
    promote(registry, version(1), None)
    with pytest.raises(RegistryError, match="champion was none and now is version 1; another job moved it: run again"):
        promote(registry, version(2), None)
    with pytest.raises(RegistryError, match="was version 3 and now is version 1"):
        promote(registry, version(2), version(3))
    assert standing(registry) == ("1", None)
    assert version(2).tags == {}


@pytest.mark.parametrize("moves", [0, 1])
def test_a_move_that_is_broken_off_is_ended(
    registry: Registry, version: Callable[[int], Version], monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    promote(registry, version(1), None)
    promote(registry, version(2), version(1))
    left = moves

    def breaking(*arguments: object) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        original(*arguments)

    original = registry_module._set_alias
    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "_set_alias", breaking)
        with pytest.raises(KeyboardInterrupt):
            promote(registry, version(3), version(2))
    assert standing(registry) == [("2", "1"), ("3", "1")][moves]
    if moves:
        registry.settle()
    else:
        promote(registry, version(3), version(2))
    assert standing(registry) == ("3", "2")

    left = moves
    assert not registry.half_rolled_back()
    with monkeypatch.context() as patch:
        patch.setattr(registry_module, "_set_alias", breaking)
        with pytest.raises(KeyboardInterrupt):
            registry.roll_back(version(3), version(2))
    assert registry.half_rolled_back() == bool(moves)
    if moves:
        registry.settle()
    else:
        registry.roll_back(version(3), version(2))
    assert standing(registry) == ("2", "1")


def test_a_version_that_was_deleted_is_not_gone_back_to(
    tracking_uri: str, registry: Registry, version: Callable[[int], Version]
) -> None:
    promote(registry, version(1), None)
    promote(registry, version(2), version(1))
    mlflow.MlflowClient(tracking_uri).delete_model_version(registry.name, "1")
    with pytest.raises(TrackingError, match=r"MLflow at sqlite.*not found"):
        registry.before(version(2))
    registry.settle()
    assert standing(registry) == ("2", None)


def test_what_is_not_there_is_one_line(
    tracking_uri: str, registry: Registry, version: Callable[[int], Version]
) -> None:
    for address, name in (
        (tracking_uri, "no-such-model"),
        ("nonsense://x", "m"),
        ("sqlite:////proc/none/mlflow.db", "m"),
    ):
        with pytest.raises(TrackingError) as caught:
            Registry(address, name)
        assert str(caught.value).startswith(f"model {name!r}: MLflow at {address}: ")
        assert "\n" not in str(caught.value)
    assert registry.at("candidate") is None
    assert registry.training_run(version(1)) is None
    assert registry.training_run(Version(registry.name, "1", "f" * 32, {})) is None
