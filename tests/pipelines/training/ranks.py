"""Training in one process and in several, on the same batch of users: what each rank does, and what it came to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from pipelines.training.fit import Learner
from rm_rec.batch import UserBatch
from rm_rec.config import RehearsalConfig
from tests.support.fakes import click_model, model_config, of_users, user_batch
from tests.support.small_runs import fork_server

LEARNING_RATE, STEPS = 0.1, 3
# With two ranks the first one's longest history takes three stretches with impressions, the second's two, and most of
# its users have no full segment. Gradients end where stretches do, and these are counted from the end of a batch's
# longest history: its segments are here a whole number of stretches on either rank and in the whole batch, so that
# they end alike.
EVENTS = [45, 3, 0, 2, 21, 0, 5, 22]
SEEN = [[45, 7, 20], [3, 0], [0], [2, 1], [21], [0], [5], [22, 9]]
SHARDINGS = (ShardingType.ROW_WISE, ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE)

Found = dict[str, Any]  # "losses", "logits" by user, "synchronised": how often gradients were, "weights" by name


def all_users() -> UserBatch:
    return user_batch(EVENTS, SEEN)


def new_learner(rehearsal: RehearsalConfig | None = None) -> Learner:
    """The same weights in every process."""
    model = click_model(model_config(bptt_segments=2, token_dropout=0.0, token_dim=8))
    torch.manual_seed(1)
    return Learner(model, rehearsal).train()


def trained(learner: Learner, step: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int) -> Found:
    """Train on this rank's users, as its share of the whole batch, then score them."""
    users = list(range(rank, len(EVENTS), world))
    batch, total = of_users(all_users(), users), sum(map(len, SEEN))
    random, losses = torch.Generator().manual_seed(rank), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        outcome = step(batch, random)
        # Gradients are averaged over ranks, and each rank's loss is a mean over its own impressions.
        (outcome.loss * (world * len(batch.label) / total)).backward()
        optimizer.step()
        losses.append(outcome.click_loss)
    learner.eval()
    with torch.no_grad():
        logits = learner.model(batch).split([len(SEEN[user]) for user in users])
    return {"losses": losses, "logits": {user: part.tolist() for user, part in zip(users, logits, strict=True)}}


def alone() -> Found:
    learner = new_learner()
    return trained(learner, learner, torch.optim.SGD(learner.parameters(), lr=LEARNING_RATE), 0, 1)


def replicated(rank: int, world: int, rehearsal: RehearsalConfig | None = None) -> Found:
    """Train under DistributedDataParallel, and count how often gradients are synchronised."""
    learner = new_learner(rehearsal)
    step = DistributedDataParallel(learner)
    buckets: list[int] = []

    def counting(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buckets.append(bucket.index())
        return allreduce_hook(dist.group.WORLD, bucket)

    step.register_comm_hook(None, counting)
    optimizer = torch.optim.SGD(learner.parameters(), lr=LEARNING_RATE)
    found = trained(learner, step, optimizer, rank, world)
    weights = {name: weight.tolist() for name, weight in learner.named_parameters()}
    return found | {"synchronised": buckets, "weights": weights}


def rehearsed(rank: int, world: int) -> Found:
    return replicated(rank, world, RehearsalConfig(fragment_length=3, num_heads=2, warm_up_steps=0))


def sharded(rank: int, world: int) -> Found:
    """Train under TorchRec's DistributedModelParallel, each table sharded in another way, updated in its backward."""
    learner = new_learner()
    collection = learner.model.embedding.collection
    apply_optimizer_in_backward(torch.optim.SGD, collection.parameters(), {"lr": LEARNING_RATE})
    tables = sorted(table.name for table in collection.embedding_configs())
    constraints = {
        table: ParameterConstraints(sharding_types=[SHARDINGS[place % len(SHARDINGS)].value], min_partition=4)
        for place, table in enumerate(tables)
    }
    sharder = EmbeddingCollectionSharder()
    topology = Topology(world_size=world, compute_device="cpu", local_world_size=world)
    plan = EmbeddingShardingPlanner(topology=topology, constraints=constraints).collective_plan(
        learner, [sharder], dist.group.WORLD
    )
    step = DistributedModelParallel(learner, device=torch.device("cpu"), plan=plan, sharders=[sharder])
    network = [weight for name, weight in step.named_parameters() if ".embedding." not in name]
    found = trained(learner, step, torch.optim.SGD(network, lr=LEARNING_RATE), rank, world)
    shardings = {plan.plan["model.embedding.collection"][table].sharding_type for table in tables}
    return found | {"shardings": sorted(shardings)}


WAYS: dict[str, Callable[[int, int], Found]] = {"replicated": replicated, "rehearsed": rehearsed, "sharded": sharded}


def in_ranks(world: int, meeting: Path) -> dict[str, list[Found]]:
    """Do all of `WAYS` in so many processes; returns each rank's findings of each."""
    context = fork_server()
    answers = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, world, str(meeting), answers)) for rank in range(world)]
    for process in ranks:
        process.start()
    try:
        by_rank = dict(answers.get(timeout=240) for _ in ranks)  # a rank that waits for another for ever says nothing
    finally:
        for process in ranks:
            process.join(20)
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * world
    return {way: [by_rank[rank][way] for rank in range(world)] for way in WAYS}


def _rank(rank: int, world: int, meeting: str, answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    answers.put((rank, {way: work(rank, world) for way, work in WAYS.items()}))
    dist.barrier()
    dist.destroy_process_group()
