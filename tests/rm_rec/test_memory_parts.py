"""A memory of parts that its holder made: sources of other kinds, machines as modules, events embedded anew."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rm_rec.config import MemoryConfig
from rm_rec.errors import BatchError, ConfigError
from rm_rec.histories import TOKENS, Histories, Queries
from rm_rec.machines import build_machine
from rm_rec.readers import build_reader
from rm_rec.time_bins import NUM_TIME_BINS
from rm_rec.user_memory import UserMemory
from tests.outside.acme_memory.sources import Counts, CountsSource
from tests.support.fakes import KINDS, READERS, model_config, scrambled

DIM, ITEMS = 8, 40


def counts_source(num_buckets: int = 64) -> CountsSource:
    return CountsSource(Counts(num_buckets=num_buckets), DIM, segment_length=4)


def counting_memory(num_buckets: int = 64, **settings: Any) -> UserMemory:
    """A memory with window, slots and counts, with weights of its own drawing."""
    memory = UserMemory(model_config(**settings), sources={"counts": counts_source(num_buckets)})
    return scrambled(memory)


class Past:
    """What some users did, of few items and many: events with vectors and keys between any two moments."""

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.lengths, shape = torch.tensor(lengths), (len(lengths), max(lengths))
        self.tokens = torch.randn(*shape, DIM, generator=random)
        self.time = torch.randint(0, 50, shape, generator=random).cumsum(1)
        self.item = torch.randint(ITEMS, shape, generator=random) ** 2 // ITEMS

    def between(self, start: Tensor, end: Tensor) -> Histories:
        place = torch.arange(self.time.shape[1])
        chosen = (place >= start[:, None]) & (place < end[:, None])
        keys = {"item": self.item[chosen], "unread": self.item[chosen] + 1}
        return Histories(lengths=end - start, time=self.time[chosen], tokens=self.tokens[chosen], keys=keys)

    def upto(self, end: Tensor | None = None) -> Histories:
        return self.between(torch.zeros_like(self.lengths), self.lengths if end is None else end)

    def queries(self, user: list[int], seen: list[int], item: list[int]) -> Queries:
        generator = torch.Generator().manual_seed(1)
        return Queries(
            tokens=torch.randn(len(user), DIM, generator=generator),
            user=torch.tensor(user),
            time=torch.full((len(user),), 10**6),
            num_earlier=torch.tensor(seen),
            keys={"item": torch.tensor(item)},
        )

    def every_moment(self) -> Queries:
        """Ask at each moment of each user, about items in turn."""
        moments = [(user, seen) for user, length in enumerate(self.lengths.tolist()) for seen in range(length + 1)]
        return self.queries([u for u, _ in moments], [n for _, n in moments], [n % 5 for n in range(len(moments))])


LENGTHS = [0, 3, 17, 8, 30]
WINDOWS: list[dict[str, Any]] = [
    {"kind": "segments", "num_segments": 0},
    {"kind": "segments", "num_segments": 2},
    {"kind": "last_events", "num_events": 6},
    {"kind": "whole_history"},
]


def same_bucket(source: CountsSource, items: Tensor, item: int) -> int:
    return int((source._bucket(items) == source._bucket(torch.tensor(item))).sum())


@torch.no_grad()
@pytest.mark.parametrize("bptt_segments", [1, 32])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("kind", "num_buckets"), [("associative", 64), ("none", 3)])
def test_a_source_of_integers_is_told_the_keys_of_all_earlier_events_and_of_targets(
    kind: str, num_buckets: int, window: dict[str, Any], bptt_segments: int
) -> None:
    memory = counting_memory(num_buckets, machine=kind, window=window, bptt_segments=bptt_segments)
    past = Past(LENGTHS)
    asked = past.every_moment()
    answers = memory(past.upto(), asked)
    source = memory.sources["counts"]
    assert isinstance(source, CountsSource)
    own = answers[:, memory.num_features - source.num_features :]
    assert asked.num_earlier is not None
    counts = []
    for query, (user, seen) in enumerate(zip(asked.user.tolist(), asked.num_earlier.tolist(), strict=True)):
        earlier = past.item[user, :seen]
        counts.append(same_bucket(source, earlier, int(asked.keys["item"][query])))
        vectors = source.vectors[source._bucket(earlier)]
        mean = vectors.mean(dim=0) if seen else torch.zeros(DIM)
        torch.testing.assert_close(own[query, 1:], mean, atol=1e-5, rtol=0)
    assert len(set(counts)) > 4
    torch.testing.assert_close(own[:, 0], torch.tensor(counts).float().log1p())


@torch.no_grad()
@pytest.mark.parametrize("window", WINDOWS[:3], ids=str)
def test_counts_fold_night_by_night_as_at_once_and_answer_from_memories(window: dict[str, Any]) -> None:
    memory, past = counting_memory(window=window), Past(LENGTHS)
    nights = [torch.tensor(upto) for upto in ([0, 0, 5, 4, 1], [0, 3, 6, 8, 18], LENGTHS)]
    kept, before = memory.initial(5), torch.zeros(5, dtype=torch.int64)
    for upto in nights:
        at_the_end = past.queries([0, 1, 2, 3, 4] * 2, [*upto.tolist()] * 2, [0, 1, 2, 3, 0] + [1] * 5)
        tonight = past.between(before, upto)
        early = replace(at_the_end, num_earlier=upto.repeat(2) - before.repeat(2))
        expected = memory(past.upto(), at_the_end)
        torch.testing.assert_close(memory(tonight, early, kept), expected, atol=1e-5, rtol=0)
        kept, before = memory.fold(kept, tonight), upto
        answers = memory.answer(kept, replace(at_the_end, num_earlier=None))
        torch.testing.assert_close(answers, expected, atol=1e-5, rtol=0)
    once = memory.fold(memory.initial(5), past.upto())
    assert kept.state["counts_folded"].dtype == torch.int64
    assert torch.equal(kept.state["counts_folded"], once.state["counts_folded"])
    whole = [length // 4 * 4 for length in LENGTHS]
    assert kept.state["counts_folded"].sum(dim=1).tolist() == whole
    for name, values in once.state.items():
        torch.testing.assert_close(kept.state[name], values, atol=1e-5, rtol=0)


def test_a_source_beside_window_and_slots_takes_its_place_in_answers_and_names() -> None:
    plain, memory = UserMemory(model_config()), counting_memory()
    assert list(memory.sources) == ["window", "slots", "counts"]
    assert memory.keys_read == ("item",)
    assert plain.keys_read == ()
    assert memory.num_features == plain.num_features + 1 + DIM
    assert memory.attended == [*plain.attended, slice(plain.num_features + 1, memory.num_features)]
    parts = memory.state_parts()
    assert parts.keys() == {*plain.state_parts(), "counts_folded"}
    assert (parts["counts_folded"].dtype, parts["counts_folded"].bytes_at_rest) == (torch.int64, 64 * 8)
    assert memory.initial(3).state["counts_folded"].shape == (3, 64)
    assert "others.counts" not in memory.writing_modules(), "no weight decides what is counted"
    twice = {name: counts_source() for name in ("counts", "more")}
    both = UserMemory(model_config(), sources=twice)
    assert {"counts_folded", "more_folded"} < both.state_parts().keys()


def test_without_the_source_answers_are_the_same_and_gradients_reach_all() -> None:
    memory, past = counting_memory(), Past(LENGTHS)
    plain = UserMemory(model_config())
    plain.load_state_dict({name: weight for name, weight in memory.state_dict().items() if "others." not in name})
    histories = past.upto()
    assert histories.tokens is not None
    vectors = histories.tokens.requires_grad_()
    asked = past.every_moment()
    answers = memory(replace(histories, tokens=vectors), asked)
    torch.testing.assert_close(answers[:, : plain.num_features], plain(past.upto(), asked))
    answers.square().sum().backward()
    for name, weight in memory.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any(), name
    assert vectors.grad is not None
    assert vectors.grad.any(dim=1).all(), "each event is seen by some query"


@pytest.mark.parametrize("name", ["window", "slots", "with.dot", "two words", ""])
def test_a_source_needs_a_name_of_its_own(name: str) -> None:
    with pytest.raises((ConfigError, KeyError), match=r"a source is called|module name"):
        UserMemory(model_config(), sources={name: counts_source()})


class Colliding(CountsSource):
    """Its one part has the name that another source's part has with its source's."""

    def state_parts(self) -> dict[str, Any]:
        return {"more_folded": super().state_parts()["folded"]}


def test_two_parts_of_one_name_are_refused() -> None:
    sources = {"counts_more": counts_source(), "counts": Colliding(Counts(), DIM, 4)}
    with pytest.raises(ConfigError, match="two sources keep a part called 'counts_more_folded'; give one of them"):
        UserMemory(model_config(), sources=sources)


def test_a_key_that_a_source_reads_is_asked_for_by_name() -> None:
    memory, past = counting_memory(), Past(LENGTHS)
    events, asked, kept = past.upto(), past.every_moment(), memory.initial(5)
    nameless = replace(events, keys={"unread": events.keys["unread"]})
    message = "histories have no key 'item', which an answer source reads; found ['unread']"
    for call in (
        lambda: memory(nameless, asked),
        lambda: memory(nameless, asked, kept),
        lambda: memory.fold(kept, nameless),
        lambda: memory.fold(kept, replace(nameless, tokens=None), Embedder()),
    ):
        with pytest.raises(BatchError, match=re.escape(message)):
            call()
    message = "queries have no key 'item', which an answer source reads; found []"
    silent = replace(asked, keys={})
    for call in (
        lambda: memory(events, silent),
        lambda: memory(events, silent, kept),
        lambda: memory.answer(kept, replace(silent, num_earlier=None)),
    ):
        with pytest.raises(BatchError, match=re.escape(message)):
            call()
    # Nobody's memories have the keys that are read, whether or not they were named.
    assert torch.isfinite(memory.answer(kept, replace(asked, num_earlier=None))).all()


class Embedder(nn.Module):
    """How a host makes vectors of its events' keys and gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.gap = nn.Embedding(ITEMS + 1, DIM), nn.Embedding(NUM_TIME_BINS + 1, DIM)
        self.calls = 0

    def forward(self, keys: dict[str, Tensor], gap: Tensor) -> Tensor:
        self.calls += 1
        assert keys["item"].shape == keys["unread"].shape == gap.shape
        return self.item(keys["item"]) + 2 * self.item(keys["unread"]) + self.gap(gap)


@torch.no_grad()
@pytest.mark.parametrize("counted", [False, True], ids=["vectors alone are read", "keys are read too"])
def test_events_embedded_anew_are_as_good_as_events_whose_vectors_were_kept(counted: bool) -> None:
    memory = counting_memory() if counted else scrambled(UserMemory(model_config()))
    past, embedder = Past(LENGTHS), scrambled(Embedder())
    gap = torch.tensor([NUM_TIME_BINS] + [0] * (past.time.shape[1] - 1)).expand_as(past.time).clone()
    gap[:, 1:] = (past.time.diff(dim=1) + 1).double().log2().floor().long()
    past.tokens = embedder({"item": past.item, "unread": past.item + 1}, gap)
    keyed, vectors = memory.initial(5, ("item", "unread")), memory.initial(5)
    before, embedder.calls = torch.zeros(5, dtype=torch.int64), 0
    for upto in (torch.tensor([0, 3, 6, 8, 18]), past.lengths):
        tonight = past.between(before, upto)
        keyed = memory.fold(keyed, replace(tonight, tokens=None), embedder)
        vectors, before = memory.fold(vectors, tonight), upto
    assert embedder.calls == 2, "one look-up a night"
    assert set(keyed.window) == {"item", "unread"}
    assert set(vectors.window) == {"item", "unread", TOKENS}
    for name, values in vectors.state.items():
        torch.testing.assert_close(keyed.state[name], values, atol=1e-5, rtol=0)
    asked = past.queries([0, 1, 2, 3, 4, 2], [*LENGTHS, 17], [0, 1, 2, 3, 0, 0])
    expected = memory(past.upto(), asked)
    later = replace(asked, num_earlier=None)
    torch.testing.assert_close(memory.answer(vectors, later), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(memory.answer(keyed, later, embedder), expected, atol=1e-5, rtol=0)
    assert embedder.calls == 3
    with pytest.raises(BatchError, match="the memories have keys of events but no vectors: give `embed`"):
        memory.answer(keyed, later)
    # Memories of nobody's events have nothing to embed.
    assert torch.isfinite(memory.answer(memory.initial(5, ("item", "unread")), later)).all()


@torch.no_grad()
def test_machine_reader_and_encoder_may_be_given_as_modules() -> None:
    config = model_config(machine="associative", encoder="transformer", reader=READERS["multi_hop"])
    of_config = scrambled(UserMemory(config))
    assert of_config.slots is not None
    torch.manual_seed(3)
    other = MemoryConfig(token_dim=DIM, segment_length=4)
    slots = of_config.slots
    given = UserMemory(other, machine=slots.machine, reader=slots.reader, encoder=slots.encoder)
    assert given.slots is not None
    assert given.slots.machine is slots.machine
    assert given.slots.reader is slots.reader
    assert given.slots.encoder is slots.encoder
    given.window.load_state_dict(of_config.window.state_dict())
    past = Past(LENGTHS)
    asked = past.every_moment()
    assert torch.equal(given(past.upto(), asked), of_config(past.upto(), asked))
    assert given.state_dict().keys() == of_config.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_that_is_given_is_read_by_a_reader_of_its_size(kind: str) -> None:
    config = model_config(machine=kind)
    machine = build_machine(config.machine, DIM)
    assert machine is not None
    memory = UserMemory(model_config(machine="none"), machine=machine)
    assert memory.slots is not None
    assert memory.slots.machine is machine
    assert memory.state_parts().keys() == machine.state_spec().keys()
    past = Past([9, 2])
    assert memory(past.upto(), past.queries([0, 1], [9, 2], [1, 1])).shape == (2, memory.num_features)


def test_a_reader_that_is_given_answers() -> None:
    config = model_config(machine="mean_pool")
    machine = build_machine(config.machine, DIM)
    assert machine is not None
    reader = build_reader(model_config(reader=READERS["hierarchical"]).reader, DIM, machine.slot_dim)
    memory = UserMemory(config, reader=reader)
    assert memory.num_features == memory.window.num_features + reader.num_features
