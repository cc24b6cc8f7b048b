"""A config that no model can be built from is refused where it is written."""

from typing import Any

import pytest
from pydantic import ValidationError

from rm_rec.config import FeatureSpace, MemoryConfig, ModelConfig, RehearsalConfig
from rm_rec.machines import MACHINES
from rm_rec.machines.base import MemoryMachine
from rm_rec.readers import READERS

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("reader heads", {"reader": {"kind": "attention", "num_heads": 5}}, "reader.num_heads is 5.*token_dim 32"),
    ("machine heads", {"machine": {"kind": "transformer_xl", "num_heads": 3}}, "machine.num_heads is 3.*token_dim 32"),
    ("window heads", {"window": {"kind": "last_events", "num_heads": 3}}, "window.num_heads is 3.*token_dim 32"),
    ("encoder heads", {"encoder": {"kind": "transformer", "num_heads": 3}}, "encoder.num_heads is 3.*token_dim 32"),
    ("no hop", {"reader": {"kind": "multi_hop", "num_hops": 0}}, "num_hops"),
    ("no tying of that name", {"reader": {"kind": "multi_hop", "tying": "knot"}}, "tying"),
    ("no margin", {"reader": {"kind": "supporting_facts", "margin": 0.0}}, "margin"),
    ("no question", {"reader": {"kind": "hierarchical", "num_queries": 0}}, "num_queries"),
    ("no machine of that kind", {"machine": {"kind": "elephant"}}, "elephant.*slot_gru"),
    ("no window of that kind", {"window": {"kind": "door"}}, "door.*last_events"),
    ("no encoder of that kind", {"encoder": {"kind": "egg"}}, "egg.*transformer"),
    ("no reader of that kind", {"reader": {"kind": "book"}}, "book.*attention"),
    ("another kind's key", {"machine": {"kind": "mean_pool", "num_slots": 3}}, "num_slots"),
    ("unknown key", {"segment_size": 3}, "segment_size"),
    ("no slot", {"machine": {"kind": "slot_gru", "num_slots": 0}}, "num_slots"),
    ("no dimension", {"token_dim": 0}, "token_dim"),
    ("no event", {"segment_length": 0}, "segment_length"),
    ("no write", {"bptt_segments": 0}, "bptt_segments"),
    ("no heads", {"window": {"kind": "segments", "num_heads": 0}}, "num_heads"),
    ("negative window", {"window": {"kind": "segments", "num_segments": -1}}, "num_segments"),
    ("drops everything", {"head": {"dropout": 1.0}}, "dropout"),
    ("more channels than rows", {"machine": {"kind": "mimn", "num_slots": 2}}, "num_channels is 3.*num_slots.* 2"),
    ("a period past counting", {"machine": {"kind": "hpmn", "num_layers": 14, "growth": 4}}, "every 4.13 events"),
    ("no spread", {"embedding_std": 0.0}, "embedding_std"),
]


@pytest.mark.parametrize(("settings", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_config_out_of_bounds_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        ModelConfig.model_validate(settings)


def test_a_period_may_be_as_long_as_events_are_counted() -> None:
    machine = {"kind": "hpmn", "num_layers": 5, "growth": 64}
    assert ModelConfig.model_validate({"machine": machine}).machine.num_layers == 5  # type: ignore[union-attr]
    with pytest.raises(ValidationError, match=r"every 64\^5 events"):
        ModelConfig.model_validate({"machine": machine | {"num_layers": 6}})


def test_rehearsal_without_a_part_is_refused() -> None:
    assert RehearsalConfig(recollection_weight=0.0, familiarity_weight=0.1).recollection_weight == 0.0
    with pytest.raises(ValidationError, match="recollection_weight and familiarity_weight are both 0"):
        RehearsalConfig(recollection_weight=0.0, familiarity_weight=0.0)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_a_state_has_a_largest_size(machine: type[MemoryMachine]) -> None:
    for name in {"num_slots", "slot_dim", "cache_length", "num_buckets"} & set(machine.config_type.model_fields):
        with pytest.raises(ValidationError, match=rf"(?s){name}.*less than or equal to"):
            machine.config_type.model_validate({name: 2**40})


def test_the_plugins_config_is_held_to_the_same() -> None:
    with pytest.raises(ValidationError, match=r"reader.num_heads is 5, which does not divide token_dim 32"):
        MemoryConfig.model_validate({"reader": {"kind": "attention", "num_heads": 5}})


def test_a_config_survives_json() -> None:
    config = ModelConfig.model_validate(
        {"machine": {"kind": "mean_pool"}, "window": {"kind": "whole_history"}, "encoder": {"kind": "transformer"}}
    )
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_every_reader_can_be_configured_by_the_name_it_has_in_the_table() -> None:
    assert {kind: reader.config_type().kind for kind, reader in READERS.items()} == {kind: kind for kind in READERS}
    for kind, reader in READERS.items():
        assert type(MemoryConfig.model_validate({"reader": {"kind": kind}}).reader) is reader.config_type


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().token_dim = 3


SPACES: list[tuple[str, dict[str, Any], str]] = [
    ("without a table", {"events": ("item", "shop")}, r"features \['shop'\] are used but have no number of rows"),
    ("without events", {"events": ()}, "at least one feature each"),
    ("without targets", {"targets": ()}, "at least one feature each"),
    ("an empty table", {"rows": {"item": 0}}, "rows.*greater than or equal to 1"),
    (
        "the name of the gaps",
        {"rows": {"item": 3, "time_gap": 3}, "events": ("item", "time_gap")},
        r"named \['time_gap'\]",
    ),
    ("a name with a dot", {"rows": {"item": 3, "a.b": 3}, "events": ("item", "a.b")}, r"named \['a.b'\]"),
    ("a table for nothing", {"rows": {"item": 3, "shop": 3}}, r"rows names \['shop'\], which no"),
    ("negative width", {"num_context_dense": -1}, "num_context_dense"),
]


@pytest.mark.parametrize(("changed", "message"), [case[1:] for case in SPACES], ids=[case[0] for case in SPACES])
def test_features_that_cannot_be_embedded_are_refused(changed: dict[str, Any], message: str) -> None:
    space = {"rows": {"item": 3}, "events": ("item",), "targets": ("item",)} | changed
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        FeatureSpace.model_validate(space)
