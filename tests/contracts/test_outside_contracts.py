"""Another package's machine, reader and source are held to their contracts by one call each."""

from rm_rec.testing import check_machine, check_reader, check_source
from tests.outside.acme_memory.machines import FadingMean, FadingMeanMachine
from tests.outside.acme_memory.parts import MeanOfSlots, MeanReader
from tests.outside.acme_memory.sources import Counts, CountsSource


def test_the_machine() -> None:
    check_machine(FadingMeanMachine, FadingMean(num_means=4))


def test_the_reader() -> None:
    check_reader(MeanReader, MeanOfSlots(scale=0.5))


def test_the_source() -> None:
    check_source(lambda token_dim, segment_length: CountsSource(Counts(), token_dim, segment_length))
