"""Classes of other people's packages: named by their place, imported by permission alone, kept with all settings."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rm_rec import ClickModel, FeatureSpace, MemoryConfig, ModelConfig, UserMemory
from rm_rec.config import OutsideSettings
from rm_rec.config.base import MachineSettings
from rm_rec.config.machines import AssociativeMemory
from rm_rec.config.outside import outside_packages
from rm_rec.encoder import SegmentEncoder, build_encoder
from rm_rec.errors import ConfigError
from rm_rec.histories import Histories, Queries
from rm_rec.machines import build_machine
from rm_rec.machines.associative import AssociativeMachine
from rm_rec.machines.base import MemoryMachine
from rm_rec.machines.sizes import fit_state, state_bytes
from rm_rec.outside import load_class
from rm_rec.readers import build_reader
from rm_rec.resolved import resolved_config
from rm_rec.sources import build_source

FADING = "acme_memory.machines:FadingMeanMachine"
OUTSIDE: dict[str, Any] = {
    "machine": {"kind": FADING, "num_means": 3},
    "reader": {"kind": "acme_memory.parts:MeanReader"},
    "encoder": {"kind": "acme_memory.parts:ScaledEncoder", "start": 2},
}
ALLOWED = ("acme_memory",)
Imported = Callable[[], bool]


def outside(**more: Any) -> MemoryConfig:
    return MemoryConfig.model_validate({"token_dim": 8, "segment_length": 4, **OUTSIDE, **more})


def machine(**keys: Any) -> OutsideSettings:
    return OutsideSettings.model_validate({"kind": FADING, **keys})


def test_settings_are_read_and_written_without_importing_anything(acme: Imported) -> None:
    config = outside(sources={"counts": {"kind": "acme_memory.sources:CountsSource"}})
    assert MemoryConfig.model_validate_json(config.model_dump_json()) == config
    assert config.model_dump()["machine"] == OUTSIDE["machine"]
    assert outside_packages(config) == ALLOWED
    assert not acme()


@pytest.mark.parametrize(
    "make",
    [
        lambda: UserMemory(outside()),
        lambda: ClickModel(
            ModelConfig.model_validate(OUTSIDE), FeatureSpace(rows={"item": 3}, events=("item",), targets=("item",))
        ),
        lambda: resolved_config(outside()),
        lambda: build_machine(outside().machine, 8),
        lambda: build_reader(outside().reader, 8, 8),
        lambda: build_encoder(outside().encoder, 8, 4),
        lambda: build_source(OutsideSettings(kind="acme_memory.sources:CountsSource"), 8, 4, ["acme"]),
        lambda: fit_state(outside().machine, 8, 512),
    ],
    ids=["UserMemory", "ClickModel", "resolved", "machine", "reader", "encoder", "source", "fit_state"],
)
def test_nothing_is_imported_without_permission(acme: Imported, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"code of package 'acme_memory'.*--allow-package acme_memory") as caught:
        make()
    assert "\n" not in str(caught.value)
    assert not acme()


def test_a_memory_is_built_of_it_with_every_default_written_down(acme: Imported) -> None:
    memory = UserMemory(outside(), allowed_packages=ALLOWED)
    names = [type(part).__name__ for part in (memory.slots.machine, memory.slots.reader, memory.slots.encoder)]
    assert names == ["FadingMeanMachine", "MeanReader", "ScaledEncoder"]
    assert memory.config.machine.model_dump() == {"kind": FADING, "num_means": 3, "longest": 64.0}
    assert memory.config.reader.model_dump() == {"kind": "acme_memory.parts:MeanReader", "scale": 1.0, "num_heads": 1}
    assert memory.config.encoder.model_dump() == {"kind": "acme_memory.parts:ScaledEncoder", "start": 2.0}
    again = MemoryConfig.model_validate_json(memory.config.model_dump_json())
    assert type(again.machine) is OutsideSettings
    assert UserMemory(again, allowed_packages=ALLOWED).config == memory.config
    events = Histories.padded(torch.randn(1, 9, 8), torch.arange(9)[None])
    queries = Queries(tokens=torch.randn(1, 8), user=torch.tensor([0]), time=torch.tensor([9]))
    assert memory(events, queries).shape == (1, memory.num_features)


def test_sources_are_resolved_and_built_too(acme: Imported) -> None:
    config = resolved_config(outside(sources={"counts": {"kind": "acme_memory.sources:CountsSource"}}), ALLOWED)
    counts = {"kind": "acme_memory.sources:CountsSource", "key": "item", "num_buckets": 64}
    assert config.sources["counts"].model_dump() == counts
    source = build_source(config.sources["counts"], 8, 4)
    assert (type(source).__name__, source.num_buckets) == ("CountsSource", 64)


@pytest.mark.parametrize("name", ["window", "slots", "two words", "3rd"])
def test_a_source_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' cannot name a source"):
        MemoryConfig.model_validate({"sources": {name: {"kind": "acme:Counts"}}})


def test_settings_given_as_an_object_vouch_for_their_package_and_keep_all_they_say(acme: Imported) -> None:
    machines = import_module("acme_memory.machines")
    config = MemoryConfig(token_dim=8, machine=machines.FadingMean(num_means=5))
    assert config.model_dump()["machine"] == {"kind": FADING, "num_means": 5, "longest": 64.0}
    assert config.machine.model_dump_json() == f'{{"kind":"{FADING}","num_means":5,"longest":64.0}}'
    memory = UserMemory(config)
    assert memory.config == config
    again = MemoryConfig.model_validate_json(config.model_dump_json())
    assert resolved_config(again, ALLOWED) == config
    with pytest.raises(ConfigError, match="--allow-package acme_memory"):
        UserMemory(again)
    # It vouches for its own package alone.
    with pytest.raises(ConfigError, match="--allow-package elsewhere"):
        UserMemory(MemoryConfig(machine=machines.FadingMean(kind="elsewhere.machines:Machine")))


def test_an_object_is_held_to_the_class_that_it_names(acme: Imported) -> None:
    machines = import_module("acme_memory.machines")
    with pytest.raises(ConfigError, match=r"machine: OtherSettings are not the settings of .*config_type FadingMean"):
        UserMemory(MemoryConfig(machine=machines.OtherSettings()))
    slower = UserMemory(MemoryConfig(machine=machines.FadingMean(kind="acme_memory.machines:Slower")))
    assert type(slower.slots.machine).__name__ == "Slower"
    with pytest.raises(ConfigError, match=r"FadingMean are not the settings of .*WithoutSize"):
        UserMemory(MemoryConfig(machine=machines.FadingMean(kind="acme_memory.machines:WithoutSize")))


def test_an_object_whose_class_cannot_be_found_again_is_refused() -> None:
    class Nameless(MachineSettings):
        size: int = 3

    class Built(AssociativeMachine):  # in a function, it has no place
        config_type = Nameless

    class Richer(AssociativeMemory):
        extra: int = 3

    for settings in (Nameless(), Richer()):
        name = type(settings).__name__
        with pytest.raises(
            ValidationError, match=f"{name} has kind '{settings.kind}', which is not the path of a class"
        ):
            MemoryConfig(machine=settings)
    assert Built.config_type().kind == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("acme_memory.nowhere:Machine", "there is no module acme_memory.nowhere; install"),
        ("acme_memory.machines:Missing", "module acme_memory.machines has no class Missing"),
        ("acme_memory.machines:math", "module acme_memory.machines has no class math"),
        ("acme_memory.parts:MeanReader", "is not a MemoryMachine: derive it from rm_rec.machines.base.MemoryMachine"),
        ("acme_memory.machines:AbstractMachine", "is abstract: it lacks initial, slots, state_spec"),
        ("acme_memory.broken:Machine", "module acme_memory.broken cannot be imported: RuntimeError: no acme here"),
        ("associative", "'associative' names no class; expected package.module:Class"),
    ],
)
def test_a_class_that_is_none_is_refused_in_one_line(acme: Imported, kind: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_class(kind, MemoryMachine, ALLOWED)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no module nobodys_package; install its package"):
        load_class("nobodys_package.machines:Machine", MemoryMachine, ["nobodys_package"])


@pytest.mark.parametrize("kind", ["a b:c", "acme:", ":Class", "acme..m:C", "acme.m:C.D", "acme/m:C", "acme:C\n"])
def test_a_kind_has_the_form_of_a_place(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"is not of the form package.module:Class"):
        MemoryConfig.model_validate({"machine": {"kind": kind}})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_means": 0}, f"machine.num_means is 0: must be greater than or equal to 1 ({FADING})"),
        ({"num_slots": 4}, f"machine.num_slots: {FADING} has no such key; it has num_means, longest"),
        ({"longest": "long"}, "machine.longest is 'long': must be a valid number"),
    ],
)
def test_a_key_that_the_class_refuses_is_named(acme: Imported, keys: dict[str, Any], said: str) -> None:
    for build in (
        lambda: build_machine(machine(**keys), 8, ALLOWED),
        lambda: UserMemory(outside(machine={"kind": FADING, **keys}), allowed_packages=ALLOWED),
    ):
        with pytest.raises(ConfigError) as caught:
            build()
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)


def test_heads_of_an_outside_class_are_checked_once_it_is_known(acme: Imported) -> None:
    config = outside(reader={"kind": "acme_memory.parts:MeanReader", "num_heads": 3})
    with pytest.raises(ConfigError, match=r"^reader.num_heads is 3, which does not divide token_dim 8$"):
        UserMemory(config, allowed_packages=ALLOWED)
    assert outside(machine={"kind": FADING, "num_heads": "many"}).machine.kind == FADING


def test_a_state_is_fitted_to_bytes(acme: Imported) -> None:
    fitted = fit_state(machine(), 8, 512, ALLOWED)
    assert fitted.model_dump() == {"kind": FADING, "num_means": 28, "longest": 64.0}
    built = build_machine(fitted, 8)
    assert built is not None
    assert state_bytes(built) == 28 * 9 * 2
    with pytest.raises(ConfigError, match="WithoutSize has size_setting 'num_means', which its settings lack"):
        fit_state(OutsideSettings(kind="acme_memory.machines:WithoutSize"), 8, 512, ALLOWED)


def test_other_peoples_settings_of_a_built_in_class_need_a_class_of_their_own(
    acme: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = import_module("acme_memory.machines")
    borrowed = type("Borrowed", (AssociativeMachine,), {"__module__": "acme_memory.machines"})
    monkeypatch.setattr(machines, "Borrowed", borrowed, raising=False)
    with pytest.raises(
        ConfigError, match=r"its config_type AssociativeMemory is of another kind .*a settings class of its"
    ):
        build_machine(OutsideSettings(kind="acme_memory.machines:Borrowed"), 8, ALLOWED)


def test_built_in_encoders_are_of_one_contract() -> None:
    for kind in ("none", "transformer"):
        encoder = build_encoder(MemoryConfig.model_validate({"encoder": {"kind": kind}}).encoder, 8, 4)
        assert isinstance(encoder, SegmentEncoder)
        assert encoder.config_type().kind == kind
