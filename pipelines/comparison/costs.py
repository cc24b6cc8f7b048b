"""Costs of models: to write an event, to score a user's candidates, to train on an impression.

They are medians, in process time of one thread, of rounds in which every model is measured once: on a shared machine
only ratios within one measurement are reliable. Users are synthetic and weights random, as neither changes the costs.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from feature_store.files import write_json
from pipelines.training.fit import Learner, build_optimizers, training_step
from pipelines.training.settings import OptimizerConfig
from rm_rec.batch import Candidates, UserBatch
from rm_rec.config import FeatureSpace, ModelConfig, RehearsalConfig, WholeHistory
from rm_rec.histories import Histories
from rm_rec.model import ClickModel

NUM_ITEMS, NUM_EVENTS, NUM_CANDIDATES = 10_000, 1024, 100
_BATCH_USERS = 16  # of writing and training
_FEATURES = FeatureSpace(rows={"item": NUM_ITEMS}, events=("item",), targets=("item",))
Models = Mapping[str, tuple[ModelConfig, RehearsalConfig | None]]
_Works = tuple[Callable[[], object], ...]


@dataclass(frozen=True)
class Cost:
    """Costs of one model, in process time of one thread."""

    write: float
    """Microseconds to fold an event; 0 if the model has no memory."""
    read: float
    """Milliseconds to score 100 candidates of one user of 1,024 events, from its memory or from raw events."""
    train: float
    """Microseconds to train on an impression, two after each event."""


def kept_costs(path: Path, models: Models, rounds: int) -> dict[str, Cost]:
    """Return the costs in a file if they are of these models and rounds; else measure them and write the file."""
    inputs = {"models": TypeAdapter(Models).dump_python(models, mode="json"), "rounds": rounds}
    values = json.loads(path.read_text()) if path.exists() else {}
    if any(values.get(name) != value for name, value in inputs.items()):
        costs = measure_costs(models, rounds)
        values = inputs | {"costs": {name: asdict(cost) for name, cost in costs.items()}}
        write_json(path, values)
    return {name: Cost(**cost) for name, cost in values["costs"].items()}


def measure_costs(models: Models, rounds: int) -> dict[str, Cost]:
    """Measure models; training includes the rehearsal of a model, if it has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        works = {name: _works(*settings) for name, settings in models.items()}
        # The first round is a warm-up.
        measured = [{name: [_seconds(one) for one in work] for name, work in works.items()} for _ in range(rounds + 1)]
    finally:
        torch.set_num_threads(threads)
    costs = {}
    for name, (config, _) in models.items():
        write, read, train = (statistics.median(one[name][part] for one in measured[1:]) for part in range(3))
        num_events = _BATCH_USERS * NUM_EVENTS
        folds = config.machine.kind != "none"
        costs[name] = Cost(1e6 * write / num_events if folds else 0.0, 1e3 * read, 1e6 * train / (2 * num_events))
    return costs


def _works(config: ModelConfig, rehearsal: RehearsalConfig | None) -> _Works:
    """Return the functions that are timed: writing, reading and training."""
    torch.manual_seed(0)
    model = ClickModel(config, _FEATURES)
    learner = Learner(model, rehearsal).train()
    optimizer = build_optimizers(learner, OptimizerConfig())
    num_earlier = torch.arange(NUM_EVENTS).repeat_interleave(2)
    batch = _batch(_BATCH_USERS, num_earlier)

    def train() -> object:
        learner.train()
        return training_step(learner, optimizer, batch, 1.0, torch.Generator().manual_seed(0))

    if isinstance(config.window, WholeHistory):  # no memory: each request reads the whole history
        one_user = _batch(1, torch.full((NUM_CANDIDATES,), NUM_EVENTS))
        return (lambda: None, _inferring(model, lambda: model(one_user)), train)
    with torch.inference_mode():
        memories = model.eval().fold(model.no_memories(1), _events(1))
    candidates = Candidates(
        user=torch.zeros(NUM_CANDIDATES, dtype=torch.int64),
        time=torch.full((NUM_CANDIDATES,), 3600 * NUM_EVENTS),
        targets={"item": _items(NUM_CANDIDATES)},
        context={},
        context_dense=torch.zeros(NUM_CANDIDATES, 0),
    )
    events = _events(_BATCH_USERS)
    return (
        _inferring(model, lambda: model.fold(model.no_memories(_BATCH_USERS), events)),
        _inferring(model, lambda: model.score(memories, candidates)),
        train,
    )


def _inferring(model: ClickModel, work: Callable[[], object]) -> Callable[[], object]:
    def infer() -> object:
        model.eval()
        with torch.inference_mode():
            return work()

    return infer


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _items(count: int) -> Tensor:
    return torch.randint(NUM_ITEMS, (count,), generator=torch.Generator().manual_seed(0))


def _times(num_users: int) -> Tensor:
    return 3600 * torch.arange(NUM_EVENTS).repeat(num_users)


def _events(num_users: int) -> Histories:
    lengths = torch.full((num_users,), NUM_EVENTS)
    return Histories(lengths=lengths, time=_times(num_users), keys={"item": _items(num_users * NUM_EVENTS)})


def _batch(num_users: int, num_earlier: Tensor) -> UserBatch:
    """Make users with an impression after each of `num_earlier` events; every second one was clicked."""
    count = num_users * len(num_earlier)
    return UserBatch(
        event_lengths=torch.full((num_users,), NUM_EVENTS),
        event_time=_times(num_users),
        events={"item": _items(num_users * NUM_EVENTS)},
        impression_lengths=torch.full((num_users,), len(num_earlier)),
        impression_time=3600 * num_earlier.repeat(num_users),
        num_earlier=num_earlier.repeat(num_users),
        targets={"item": _items(count)},
        context={},
        context_dense=torch.zeros(count, 0),
        label=(torch.arange(count) % 2).float(),
    )
