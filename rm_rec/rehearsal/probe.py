"""A probe of a trained model's memory: a new decoder, trained to predict masked events from the frozen memory.

The accuracy that rehearsal logs is that of the decoder that the memory was trained with, and a model trained without
rehearsal has no such decoder. A probe is the same small decoder for every model, trained anew on states that do not
change, so that models can be compared: with and without rehearsal, and with different machines.
Suffixes: U user, F fragment, B event of a fragment, M masked event of a fragment, C candidate, D dim.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.machines.base import Slots
from rm_rec.model import ClickModel
from rm_rec.rehearsal.decoder import FragmentDecoder
from rm_rec.rehearsal.fragments import count_fragments, locate
from rm_rec.rehearsal.masking import draw_masking, select_events
from rm_rec.rehearsal.recollection import Recollection, event_keys
from rm_rec.rehearsal.sampler import draw_uniform

# The same for all models, whatever their rehearsal settings.
FRAGMENT_LENGTH, NUM_MASKED = 16, 8


@dataclass(frozen=True)
class Questions:
    """Fragments of histories, and their users' memories, each at one boundary later than all its fragments."""

    slots: Slots  # [U, ...], a memory per user
    user: Int[Tensor, " fragment"]
    age: Int[Tensor, "fragment event"]  # boundary of the state minus the event's segment: 1 or more
    events: dict[str, Tensor]  # feature -> [F, B]

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: Int[Tensor, " row"]) -> "Questions":
        """Select fragments by index, with all memories."""
        events = {name: ids.index_select(0, rows) for name, ids in self.events.items()}
        return Questions(self.slots, self.user.index_select(0, rows), self.age.index_select(0, rows), events)

    def of_another_user(self) -> "Questions":
        """Return the same fragments with other users' memories, as a control: these cannot help to answer."""
        return replace(self, slots=Slots(*(part.roll(1, 0) for part in _parts(self.slots))))


def join(parts: list[Questions]) -> Questions:
    """Concatenate questions about different users."""
    first = 0
    users = []
    for part in parts:
        users.append(part.user + first)
        first += len(part.slots.valid)
    return Questions(
        slots=_joined([part.slots for part in parts]),
        user=torch.cat(users),
        age=torch.cat([part.age for part in parts]),
        events={name: torch.cat([part.events[name] for part in parts]) for name in parts[0].events},
    )


def draw_questions(model: ClickModel, batch: UserBatch, per_user: int, generator: torch.Generator) -> Questions:
    """Draw `per_user` fragments, and the state that a random impression of their user reads."""
    start_U = batch.impression_lengths.cumsum(0) - batch.impression_lengths
    slots, boundary_U = _states(model, batch, start_U + draw_uniform(batch.impression_lengths, generator))
    available_U = count_fragments(boundary_U * model.config.segment_length, FRAGMENT_LENGTH)
    user_F = (available_U > 0).nonzero().squeeze(1).repeat_interleave(per_user)
    index_F = draw_uniform(available_U.index_select(0, user_F), generator)
    return _questions(model, batch, slots, boundary_U, user_F, index_F)


def last_questions(model: ClickModel, batch: UserBatch) -> Questions:
    """Return all fragments that were folded into the state that each user's last impression reads."""
    by_user_and_time = torch.argsort(batch.num_earlier, stable=True)
    by_user_and_time = by_user_and_time[torch.argsort(batch.impression_user[by_user_and_time], stable=True)]
    slots, boundary_U = _states(model, batch, by_user_and_time[batch.impression_lengths.cumsum(0) - 1])
    available_U = count_fragments(boundary_U * model.config.segment_length, FRAGMENT_LENGTH)
    indices = torch.arange(int(available_U.max()), device=available_U.device)
    user_F, index_F = (indices < available_U[:, None]).nonzero(as_tuple=True)
    return _questions(model, batch, slots, boundary_U, user_F, index_F)


class RecollectionProbe(nn.Module):
    """Picks masked events out of candidates, given the rest of their fragment and, with `reads_memory`, the slots.

    The model gets no gradient and is not changed.
    """

    def __init__(self, model: ClickModel, seed: int, *, reads_memory: bool = True) -> None:
        super().__init__()
        dim, slots = model.config.token_dim, model.memory.slots
        assert slots is not None, "a probe needs a model with a machine"
        with torch.random.fork_rng(devices=[]):  # so that every model gets the same probe, and the caller's RNG is kept
            torch.manual_seed(seed)
            self.decoder = FragmentDecoder(
                token_dim=dim,
                slot_dim=slots.machine.slot_dim if reads_memory else None,
                fragment_length=FRAGMENT_LENGTH,
                num_layers=1,
                num_heads=math.gcd(4, dim),
            )
            self.recollection = Recollection(dim)

    def forward(
        self,
        model: ClickModel,
        questions: Questions,
        candidates: dict[str, Int[Tensor, " candidate"]],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, ""], Bool[Tensor, "fragment masked"], Int[Tensor, "fragment masked"]]:
        """Mask half of each fragment; return the loss, whether each masked event was picked out, and the events' ages.

        `candidates` are features of events; those with the features of the masked event are left out.
        """
        shape = questions.age.shape
        flat = {name: ids.flatten() for name, ids in questions.events.items()}
        with torch.no_grad():
            content_FBD = model.embedding.content(flat).view(*shape, -1)
            candidate_CD = model.embedding.content(candidates)
        masking = draw_masking(len(questions), FRAGMENT_LENGTH, NUM_MASKED, generator)
        slots = Slots(*(part.index_select(0, questions.user) for part in _parts(questions.slots)))
        _, decoded_FBD = self.decoder(content_FBD, masking.is_masked, slots)
        loss, correct_FM = self.recollection(
            select_events(decoded_FBD, masking.masked),
            select_events(content_FBD, masking.masked),
            event_keys(flat).view(shape).gather(1, masking.masked),
            candidate_CD[None],
            event_keys(candidates)[None],
        )
        return loss, correct_FM, questions.age.gather(1, masking.masked)


@torch.no_grad()
def _states(
    model: ClickModel, batch: UserBatch, impression_U: Int[Tensor, " user"]
) -> tuple[Slots, Int[Tensor, " user"]]:
    """Return the slots that one impression of each user reads, and their boundaries."""
    one_each = replace(
        batch,
        impression_lengths=torch.ones_like(batch.event_lengths),
        targets={name: ids.index_select(0, impression_U) for name, ids in batch.targets.items()},
        context={name: ids.index_select(0, impression_U) for name, ids in batch.context.items()},
        **{name: getattr(batch, name).index_select(0, impression_U) for name in _OF_IMPRESSIONS},
    )
    users, slots = [], []
    assert model.memory.slots is not None, "a probe needs a model with a machine"
    for part in model.stretches(one_each, every_boundary=False):
        users.append(part.memory.blocks.user)
        slots.append(model.memory.slots.machine.slots(part.memory.state))
    order_U = torch.cat(users).argsort()  # stretches return users in the order of their history lengths
    joined = Slots(*(part.index_select(0, order_U) for part in _parts(_joined(slots))))
    return joined, one_each.num_earlier // model.config.segment_length


_OF_IMPRESSIONS = ("impression_time", "num_earlier", "context_dense", "label")


def _questions(
    model: ClickModel, batch: UserBatch, slots: Slots, boundary_U: Tensor, user_F: Tensor, index_F: Tensor
) -> Questions:
    position_FB = locate(batch.histories(), user_F, index_F, FRAGMENT_LENGTH)
    within_FB = index_F[:, None] * FRAGMENT_LENGTH + torch.arange(FRAGMENT_LENGTH, device=index_F.device)
    events = {name: ids.index_select(0, position_FB.flatten()) for name, ids in batch.events.items()}
    return Questions(
        slots=slots,
        user=user_F,
        age=boundary_U.index_select(0, user_F)[:, None] - within_FB // model.config.segment_length,
        events={name: ids.view(position_FB.shape) for name, ids in events.items()},
    )


def _joined(slots: list[Slots]) -> Slots:
    return Slots(*(torch.cat(parts) for parts in zip(*map(_parts, slots), strict=True)))


def _parts(slots: Slots) -> tuple[Tensor, ...]:
    parts = (slots.keys, slots.values, slots.valid, slots.log_weight)
    return tuple(part for part in parts if part is not None)
