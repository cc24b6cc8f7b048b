"""A memory space is named by all that writes, and by nothing else."""

from collections.abc import Callable

import pyarrow as pa
import pytest
import torch

from feature_store.data_config import ITEM
from feature_store.vocabulary.vocabularies import COUNT, Vocabularies
from feature_store.vocabulary.vocabulary import Vocabulary
from pipelines.models.memory_space import space_id
from rm_rec.config import FeatureSpace, ModelConfig
from rm_rec.model import ClickModel

ITEMS = pa.array([5, 7, 9])


def vocabularies(
    items: pa.Array = ITEMS,
    actions: tuple[str, ...] = ("view", "buy"),
    oov_rows: int = 2,
    counts: tuple[int, ...] = (3, 2, 2),
) -> Vocabularies:
    features = {
        ITEM: Vocabulary(items, oov_rows),
        "action": Vocabulary(pa.array(actions), 1),
        "place": Vocabulary(pa.array(["top"]), 1),
    }
    return Vocabularies(features, (), pa.table({ITEM: items, COUNT: counts}))


def space_of(
    known: Vocabularies | None = None, events: tuple[str, ...] = (ITEM, "action"), **settings: object
) -> str | None:
    return space_id(model(known or vocabularies(), events, **settings), known or vocabularies())


def model(known: Vocabularies, events: tuple[str, ...] = (ITEM, "action"), **settings: object) -> ClickModel:
    torch.manual_seed(0)
    rows = {name: known.features[name].num_rows for name in (*events, "place")}
    features = FeatureSpace(rows=rows, events=events, targets=(ITEM,), context=("place",))
    config = ModelConfig.model_validate({"token_dim": 8} | settings)
    return ClickModel(config, features, allowed_packages=["acme_memory"])


def test_it_is_sixteen_digits_and_the_same_each_time() -> None:
    name = space_of()
    assert name == space_of()
    assert name is not None
    assert len(name) == 16
    assert int(name, 16) >= 0


@pytest.mark.parametrize(
    "settings",
    [
        {"segment_length": 16},
        {"window": {"kind": "segments", "num_segments": 2}},
        {"encoder": {"kind": "transformer", "num_heads": 2}},
        {"machine": {"kind": "mean_pool"}},
        {"machine": {"kind": "none"}},
    ],
)
def test_what_writes_names_another_space(settings: dict[str, object]) -> None:
    assert space_of(**settings) != space_of()


@pytest.mark.parametrize(
    "known",
    [
        vocabularies(pa.array([7, 5, 9])),
        vocabularies(pa.array(["5", "7", "9"])),
        vocabularies(actions=("view", "sell")),
        vocabularies(oov_rows=3, items=pa.array([5, 7]), counts=(3, 2)),
    ],
    ids=["order", "type", "feature", "rows shared by hash"],
)
def test_ids_that_mean_other_rows_name_another_space(known: Vocabularies) -> None:
    assert space_of(known) != space_of()


def test_the_order_of_features_is_part_of_a_space() -> None:
    assert space_of(events=("action", ITEM)) != space_of()


@pytest.mark.parametrize(
    "settings",
    [
        {"reader": {"kind": "attention", "num_heads": 2}},
        {"head": {"hidden_dims": (8,)}},
        {"window": {"kind": "segments", "num_heads": 4}},
        {"bptt_segments": 3},
        {"token_dropout": 0.5},
    ],
)
def test_what_only_reads_leaves_the_space(settings: dict[str, object]) -> None:
    known = vocabularies()
    plain, other = model(known), model(known, **settings)
    other.load_state_dict(plain.writing_weights(), strict=False)
    assert space_id(other, known) == space_id(plain, known)


def test_every_writing_weight_counts_and_no_other() -> None:
    known = vocabularies()
    plain = model(known)
    name = space_id(plain, known)
    for weight_name, weight in plain.state_dict().items():
        weight.flatten()[0].add_(1e-3)
        assert (space_id(plain, known) != name) == (weight_name in plain.writing_weights()), weight_name
        name = space_id(plain, known)


def test_counts_of_items_leave_the_space() -> None:
    assert space_of(vocabularies(counts=(9, 8, 7))) == space_of()


def test_a_window_of_the_whole_history_has_no_space() -> None:
    assert space_of(machine={"kind": "none"}, window={"kind": "whole_history"}) is None


FADING = "acme_memory.machines:FadingMeanMachine"


@pytest.mark.parametrize(
    "settings",
    [
        {"machine": {"kind": FADING, "longest": 65.0}},
        {"machine": {"kind": "acme_memory.machines:Slower", "num_means": 8}},
        {"machine": {"kind": FADING}, "encoder": {"kind": "acme_memory.parts:ScaledEncoder"}},
    ],
)
def test_other_peoples_settings_that_write_are_part_of_a_space(
    acme: Callable[[], bool], settings: dict[str, object]
) -> None:
    names = {space_of(), space_of(machine={"kind": FADING}), space_of(**settings)}
    assert len(names) == 3


def test_a_default_and_the_same_value_given_are_one_space(acme: Callable[[], bool]) -> None:
    assert space_of(machine={"kind": FADING}) == space_of(machine={"kind": FADING, "num_means": 8})


def test_weights_of_other_peoples_machines_and_encoders_count(acme: Callable[[], bool]) -> None:
    known = vocabularies()
    made = model(known, machine={"kind": FADING}, encoder={"kind": "acme_memory.parts:ScaledEncoder"})
    assert {"memory.slots.machine.start", "memory.slots.encoder.scale"} <= made.writing_weights().keys()
    before = space_id(made, known)
    with torch.no_grad():
        made.get_parameter("memory.slots.encoder.scale").add_(1e-3)
    assert space_id(made, known) != before


def test_sources_are_part_of_a_space_where_there_are_any() -> None:
    known = vocabularies()
    made = model(known)
    names = [space_id(made, known)]
    for buckets in (1, 2):
        sources = {"counts": {"kind": "acme:Counts", "buckets": buckets}}
        config = {**made.config.model_dump(), "sources": sources}
        made.config = ModelConfig.model_validate(config)
        names.append(space_id(made, known))
    assert len(set(names)) == 3


def test_a_model_of_before_there_were_sources_keeps_its_name() -> None:
    known = vocabularies()
    made = model(known)
    with torch.no_grad():
        for weight in made.state_dict().values():
            weight.zero_()
    assert space_id(made, known) == "5f00d2cc69622194"
