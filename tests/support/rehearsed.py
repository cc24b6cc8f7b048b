"""What rehearsal asks of a memory, seen from outside: which events, which of them masked, and which states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import FeatureSpace, RehearsalConfig
from rm_rec.machines.base import Slots
from rm_rec.model import ClickModel, StretchLogits
from rm_rec.rehearsal.objective import Rehearsal, RehearsalLoss, RehearsalObjective
from rm_rec.user_memory import StretchAnswers
from tests.support.fakes import click_model, model_config, scrambled, user_batch

Calls = list[tuple[Any, Any]]

MAX_EVENTS = 400
DISTINCT = FeatureSpace(rows={"item": MAX_EVENTS}, events=("item",), targets=("item",))


def rehearsal_config(**settings: Any) -> RehearsalConfig:
    """Both parts, on fragments of 3 events, for models whose segments have 4."""
    small: dict[str, Any] = {
        "recollection_weight": 1.0,
        "familiarity_weight": 1.0,
        "fragment_length": 3,
        "fragments_per_user": 4,
        "num_heads": 2,
        "warm_up_steps": 0,
    } | settings
    if isinstance(small.get("sampler"), str):
        small["sampler"] = {"kind": small["sampler"]}
    return RehearsalConfig.model_validate(small)


def distinct_model(**settings: Any) -> ClickModel:
    """A model whose events have one feature, of as many values as a batch has events."""
    return click_model(model_config(**{"machine": "slot_gru"} | settings), DISTINCT)


def distinct_batch(event_lengths: Sequence[int], num_earlier: Sequence[Sequence[int]], seed: int = 0) -> UserBatch:
    """Each event an item of its own: the number of its place in the batch."""
    batch = user_batch(event_lengths, num_earlier, seed, DISTINCT)
    return replace(batch, events={"item": torch.arange(sum(event_lengths))})


def rehearsal_objective(model: ClickModel, config: RehearsalConfig | None = None, seed: int = 1) -> RehearsalObjective:
    """An objective with scrambled weights, for evaluation."""
    return scrambled(RehearsalObjective(config or rehearsal_config(), model.memory), seed).eval()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Heard:
    """What one stretch of a batch of distinct events was asked."""

    loss: RehearsalLoss
    position: Tensor  # [F, B] places in the batch of the fragments' events
    masked: Tensor  # [F, B]
    slots: Slots | None
    decoded: Tensor  # [F, B, D]
    mixed: Tensor | None  # [F, B] places in the batch of the mixed fragments' events
    recollection: tuple[Tensor, ...] | None  # what it was called with

    def user(self, batch: UserBatch) -> Tensor:
        """Whose the fragments are, by their first event."""
        return torch.searchsorted(batch.event_lengths.cumsum(0), self.position[:, 0].contiguous(), right=True)


def begun(
    objective: RehearsalObjective, model: ClickModel, batch: UserBatch, seed: int = 0
) -> tuple[Rehearsal, Iterator[StretchLogits]]:
    """The rehearsal of a batch and its stretches, of one look-up of vectors; the same seed draws the same."""
    vectors = model.embed(batch)
    rehearsal = objective.begin(
        model.memory,
        batch.histories(vectors.events),
        batch.queries(vectors.targets),
        content=vectors.content,
        label=batch.label,
        generator=random(seed),
    )
    return rehearsal, model.stretches(batch, vectors)


def rehearse(
    objective: RehearsalObjective,
    model: ClickModel,
    batch: UserBatch,
    seed: int = 0,
    change: Callable[[StretchAnswers], StretchAnswers] = lambda stretch: stretch,
) -> Iterator[tuple[StretchAnswers, Heard | None]]:
    """Rehearse a batch of distinct events, stretch by stretch, and listen; the same seed draws the same."""
    rehearsal, outputs = begun(objective, model, batch, seed)
    for output in outputs:
        shown = change(output.memory)
        with calls_of(objective.decoder) as decoder, calls_of(objective.recollection) as recollection:
            loss = rehearsal.loss(shown)
        yield shown, _heard(loss, decoder, recollection, model) if loss is not None else None


@contextmanager
def calls_of(module: nn.Module | None) -> Iterator[Calls]:
    """What a module is given and returns."""
    calls: Calls = []
    if module is None:
        yield calls
        return
    handle = module.register_forward_hook(lambda _, given, found: calls.append((given, found)))
    yield calls
    handle.remove()


def _heard(loss: RehearsalLoss, decoder: Calls, recollection: Calls, model: ClickModel) -> Heard:
    (given, (_, decoded)), *mixed = decoder
    tokens, masked, slots = given
    if mixed:
        assert torch.equal(mixed[0][0][1], masked)
        assert mixed[0][0][2] is slots
    return Heard(
        loss=loss,
        position=place_of(tokens, model),
        masked=masked,
        slots=slots,
        decoded=decoded,
        mixed=place_of(mixed[0][0][0], model) if mixed else None,
        recollection=recollection[0][0] if recollection else None,
    )


def place_of(vectors: Tensor, model: ClickModel) -> Tensor:
    """Which of a batch's distinct events vectors are."""
    table = model.embedding.content({"item": torch.arange(MAX_EVENTS)})
    same = (vectors[..., None, :] == table).all(dim=-1)
    assert (same.sum(dim=-1) == 1).all()
    return same.to(torch.int64).argmax(dim=-1)


def named_states(stretch: StretchAnswers) -> StretchAnswers:
    """The stretch with states that say whose they are, and how many segments they hold."""
    slots = torch.zeros_like(stretch.trace["slots"])
    num_users, num_boundaries = slots.shape[:2]
    slots[..., 0] = torch.arange(num_users)[:, None, None]
    slots[..., 1] = stretch.start + torch.arange(num_boundaries)[:, None]
    return replace(stretch, trace={"slots": slots})


def of_the_next_user(stretch: StretchAnswers) -> StretchAnswers:
    """The stretch with each user's states handed to the user before."""
    return replace(stretch, trace={name: values.roll(-1, dims=0) for name, values in stretch.trace.items()})


def names_of(slots: Slots | None) -> tuple[Tensor, Tensor]:
    """Whose the named states are, and how many segments they hold."""
    assert slots is not None
    assert slots.valid.all()
    return slots.values[:, 0, 0].long(), slots.values[:, 0, 1].long()
