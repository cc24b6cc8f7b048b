"""Every source of answers keeps the contract of rm_rec.testing: windows, slots, and one whose state is integers."""

import pytest

from rm_rec.config import LastEvents, NoEncoder, RecentSegments, TransformerEncoder
from rm_rec.encoder import build_encoder
from rm_rec.machines import MACHINES
from rm_rec.readers import READERS
from rm_rec.sources.base import AnswerSource
from rm_rec.sources.slots import SlotSource
from rm_rec.sources.window import WindowSource
from rm_rec.testing import SOURCE_CHECKS, SourceCase
from rm_rec.testing.source_case import Make
from tests.contracts.counting_source import CountingSource
from tests.contracts.everyones_counts import EveryonesCounts, plant


def slots(machine: str, reader: str, *, encoded: bool = False) -> Make:
    """What makes a source of a machine and a reader with their defaults."""

    def make(token_dim: int, segment_length: int) -> AnswerSource:
        built = MACHINES[machine](MACHINES[machine].config_type(), token_dim)
        encoder = build_encoder(TransformerEncoder() if encoded else NoEncoder(), token_dim, segment_length)
        return SlotSource(encoder, built, READERS[reader](READERS[reader].config_type(), token_dim, built.slot_dim))

    return make


SOURCES = {
    "window": SourceCase(lambda dim, length: WindowSource(RecentSegments(), dim, length)),
    "tail": SourceCase(lambda dim, length: WindowSource(RecentSegments(num_segments=0), dim, length)),
    "last events": SourceCase(
        lambda dim, length: WindowSource(LastEvents(num_events=6), dim, length), window_segments=2
    ),
    # Machines that add up, forget by age, keep the last events, and write at a pace of their own.
    "associative": SourceCase(slots("associative", "attention")),
    "expire_span": SourceCase(slots("expire_span", "hierarchical", encoded=True), window_segments=3),
    "ring_buffer": SourceCase(slots("ring_buffer", "supporting_facts"), window_segments=0),
    "hpmn": SourceCase(slots("hpmn", "multi_hop")),
    "counting": SourceCase(lambda dim, length: CountingSource()),
    "everyones_counts": SourceCase(lambda dim, length: EveryonesCounts(), plant=plant),
}


@pytest.mark.parametrize("check", SOURCE_CHECKS)
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_keeps_its_contract(name: str, check: str) -> None:
    SOURCE_CHECKS[check](SOURCES[name])
