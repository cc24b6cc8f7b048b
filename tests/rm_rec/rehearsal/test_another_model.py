"""Rehearsal in a model that is not ours: a small DeepFM with embeddings and a training loop of its own."""

from dataclasses import dataclass

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rm_rec.config import MemoryConfig, NoMachine, RecentSegments, RehearsalConfig
from rm_rec.histories import Histories, Queries
from rm_rec.machines.associative import AssociativeMemory
from rm_rec.rehearsal.objective import RehearsalObjective
from rm_rec.user_memory import StretchAnswers, UserMemory
from tests.support.fakes import scrambled
from tests.support.rehearsed import of_the_next_user, random

PLACES, OWN, NOISE, DIM = 4, 6, 8, 16
FRAGMENT, LATER = 4, 3  # events after those that tell anything: the window sees no others


class DeepFM(nn.Module):
    """Factorisation machine over target and hour, and a perceptron over both and the memory's answers."""

    def __init__(self, machine: AssociativeMemory | NoMachine) -> None:
        super().__init__()
        self.item = nn.Embedding(PLACES * OWN + NOISE, DIM)
        self.hour = nn.Embedding(5, DIM)
        self.linear = nn.Embedding(PLACES * OWN + NOISE, 1)
        config = MemoryConfig(token_dim=DIM, segment_length=4, machine=machine, window=RecentSegments(num_segments=0))
        self.memory = UserMemory(config)
        self.deep = nn.Sequential(nn.Linear(3 * DIM + self.memory.num_features, 32), nn.ReLU(), nn.Linear(32, 1))

    def logits(self, log: "Log", stretch: StretchAnswers) -> Tensor:
        """Score the impressions of one stretch."""
        hour = self.hour(log.hour[stretch.query])
        linear = self.linear(log.target[stretch.query]).squeeze(1) + (stretch.targets * hour).sum(dim=1)
        attended = [stretch.answers[:, place] * stretch.targets for place in self.memory.attended]
        deep = torch.cat([stretch.targets, hour, stretch.answers, sum(attended)], dim=1)
        return linear + self.deep(deep).squeeze(1)


@dataclass(frozen=True)
class Log:
    """Users whose first events are habits: at each place of four an item of their own, twice. Then comes noise."""

    items: Tensor  # [U, E]
    target: Tensor  # [Q]
    hour: Tensor  # [Q]
    label: Tensor  # [Q]: the target is its user's own item at its place
    user: Tensor  # [Q]

    def inputs(self, host: DeepFM) -> tuple[Histories, Queries]:
        """Embed what happened and what is asked about, as the host has it."""
        num_users, num_events = self.items.shape
        histories = Histories.padded(
            host.item(self.items), torch.arange(num_events).expand(num_users, -1), keys={"item": self.items}
        )
        time = torch.full((len(self.user),), num_events)
        return histories, Queries(tokens=host.item(self.target), user=self.user, time=time)


def log_of(num_users: int, seed: int) -> Log:
    generator = random(seed)
    own = torch.randint(OWN, (num_users, PLACES), generator=generator) + OWN * torch.arange(PLACES)
    noise = PLACES * OWN + torch.randint(NOISE, (num_users, LATER), generator=generator)
    user = torch.arange(num_users).repeat_interleave(4)
    place = torch.randint(PLACES, (len(user),), generator=generator)
    label = torch.randint(2, (len(user),), generator=generator)
    other = OWN * place + torch.randint(OWN, (len(user),), generator=generator)
    target = torch.where(label > 0, own[user, place], other)
    return Log(
        items=torch.cat([own.repeat(1, 2), noise], dim=1),
        target=target,
        hour=torch.randint(5, (len(user),), generator=generator),
        label=(target == own[user, place]).float(),
        user=user,
    )


REHEARSAL = RehearsalConfig(recollection_weight=1.0, fragment_length=FRAGMENT, warm_up_steps=0)


@dataclass(frozen=True)
class Step:
    click_loss: float
    recollection_loss: float


def trained(host: DeepFM, rehearsal: RehearsalObjective, steps: int) -> list[Step]:
    """Train as anyone would: an optimiser, a loop over batches, and in it a loop over stretches."""
    optimizer = torch.optim.Adam([*host.parameters(), *rehearsal.parameters()], lr=1e-2)
    found = []
    for number in range(steps):
        log = log_of(32, seed=number)
        histories, queries = log.inputs(host)
        of_batch = rehearsal.begin(host.memory, histories, queries, generator=random(number))
        loss, clicks, recollections = torch.zeros(()), 0.0, []
        for stretch in host.memory.stretches(histories, queries):
            label = log.label[stretch.query]
            click_loss = binary_cross_entropy_with_logits(host.logits(log, stretch), label, reduction="sum")
            loss = loss + click_loss / len(log.label)
            clicks += click_loss.item() / len(log.label)
            rehearsed = of_batch.loss(stretch)
            if rehearsed is not None:
                loss = loss + rehearsed.loss
                recollections.append(rehearsed.figures["recollection_loss"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(Step(clicks, sum(recollections) / len(recollections)))
    return found


@torch.no_grad()
def auc(host: DeepFM) -> float:
    log = log_of(300, seed=10**6)
    (stretch,) = host.memory.stretches(*log.inputs(host))
    return float(roc_auc_score(log.label[stretch.query], host.logits(log, stretch)))


@torch.no_grad()
def recollected(host: DeepFM, rehearsal: RehearsalObjective) -> tuple[float, float]:
    """How often masked events are picked out by a user's own memory, and by the next user's."""
    log = log_of(300, seed=10**6)
    found = []
    for change in (lambda stretch: stretch, of_the_next_user):
        histories, queries = log.inputs(host)
        of_batch = rehearsal.eval().begin(host.memory, histories, queries, generator=random())
        (stretch,) = host.memory.stretches(histories, queries)
        rehearsed = of_batch.loss(change(stretch))
        assert rehearsed is not None
        found.append(rehearsed.figures["recollection_accuracy"])
    return found[0], found[1]


def made(machine: AssociativeMemory | NoMachine) -> tuple[DeepFM, RehearsalObjective]:
    torch.manual_seed(0)
    host = DeepFM(machine)
    return host, RehearsalObjective(REHEARSAL, host.memory)


MACHINE = AssociativeMemory(num_slots=4, slot_dim=16)


def test_another_model_learns_what_only_old_events_tell_and_recollects_them() -> None:
    host, rehearsal = made(MACHINE)
    before, _ = recollected(host, rehearsal)
    steps = trained(host, rehearsal.train(), steps=150)
    first, last = (steps[:10], steps[-10:])
    assert sum(step.click_loss for step in last) < 0.7 * sum(step.click_loss for step in first)
    assert sum(step.recollection_loss for step in last) < 0.5 * sum(step.recollection_loss for step in first)
    own, others = recollected(host, rehearsal)
    assert own > max(before + 0.3, 0.8)
    assert others < 0.4
    assert auc(host) > 0.9


def test_without_a_memory_the_same_model_knows_nothing_of_it() -> None:
    host, rehearsal = made(NoMachine())
    trained(host, rehearsal, steps=150)
    assert abs(auc(host) - 0.5) < 0.1
    assert recollected(host, rehearsal)[0] < 0.4


def recollected_by(machine: AssociativeMemory | NoMachine, *, content_learns: bool) -> tuple[DeepFM, list[int]]:
    """Go backward from rehearsal's loss alone; return the host, and which items' vectors learn from it."""
    host, rehearsal = made(machine)
    scrambled(rehearsal)  # what starts at zero passes no gradient on yet
    histories, queries = LOG.inputs(host)
    assert histories.tokens is not None
    content = None if content_learns else histories.tokens.detach()
    of_batch = rehearsal.begin(host.memory, histories, queries, content=content, generator=random())
    (stretch,) = host.memory.stretches(histories, queries)
    rehearsed = of_batch.loss(stretch)
    assert rehearsed is not None
    rehearsed.loss.backward()
    grad = host.item.weight.grad
    return host, grad.any(dim=1).nonzero().flatten().tolist() if grad is not None else []


LOG = log_of(8, seed=0)
FOLDED = sorted(set(LOG.items[:, : 2 * PLACES].flatten().tolist()))


@pytest.mark.parametrize("content_learns", [True, False])
def test_what_is_recollected_teaches_the_hosts_embeddings_and_the_memory_and_nothing_else(content_learns: bool) -> None:
    host, learnt = recollected_by(MACHINE, content_learns=content_learns)
    assert learnt == FOLDED, "the folded events, and no others, through the memory alone if need be"
    assert host.memory.slots is not None
    assert all(weight.grad is not None and weight.grad.any() for weight in host.memory.slots.machine.parameters())
    for module in (host.hour, host.linear, host.deep, host.memory.window):
        assert all(weight.grad is None for weight in module.parameters())


def test_without_a_memory_what_is_recollected_teaches_through_the_events_own_vectors() -> None:
    assert set(recollected_by(NoMachine(), content_learns=True)[1]) <= set(FOLDED)
    assert recollected_by(NoMachine(), content_learns=True)[1]
    assert not recollected_by(NoMachine(), content_learns=False)[1]
