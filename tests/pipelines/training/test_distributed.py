"""Training in one and in two processes, over gloo, gives what training without any of it gives."""

from pathlib import Path

import pytest
import torch

from tests.pipelines.training import ranks


@pytest.fixture(scope="module", params=[1, 2])
def by_way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ranks.Found]]:
    meeting: Path = tmp_path_factory.mktemp("gloo") / "meeting"
    return ranks.in_ranks(request.param, meeting)


@pytest.fixture(scope="module")
def alone() -> ranks.Found:
    return ranks.alone()


@pytest.mark.parametrize("way", ["replicated", "sharded"])
def test_losses_and_scores_are_those_of_one_process(
    by_way: dict[str, list[ranks.Found]], alone: ranks.Found, way: str
) -> None:
    found = by_way[way]
    losses = torch.tensor([rank["losses"] for rank in found]).sum(dim=0)
    torch.testing.assert_close(losses, torch.tensor(alone["losses"]), atol=1e-5, rtol=0)
    assert losses[-1] < losses[0] - 0.1
    logits = {user: part for rank in found for user, part in rank["logits"].items()}
    assert logits.keys() == alone["logits"].keys()
    for user, expected in alone["logits"].items():
        torch.testing.assert_close(torch.tensor(logits[user]), torch.tensor(expected), atol=1e-5, rtol=0)


def test_tables_are_sharded_in_each_way(by_way: dict[str, list[ranks.Found]]) -> None:
    assert by_way["sharded"][0]["shardings"] == ["column_wise", "row_wise", "table_wise"]


@pytest.mark.parametrize("way", ["replicated", "rehearsed"])
def test_gradients_are_synchronised_once_a_batch_on_every_rank(by_way: dict[str, list[ranks.Found]], way: str) -> None:
    """The first rank's batch takes three stretches, the second's two; all weights fit one bucket."""
    for rank in by_way[way]:
        assert rank["synchronised"] == [0] * ranks.STEPS


@pytest.mark.parametrize("way", ["replicated", "rehearsed"])
def test_ranks_hold_the_same_weights(by_way: dict[str, list[ranks.Found]], way: str) -> None:
    first, *others = (rank["weights"] for rank in by_way[way])
    for other in others:
        assert other == first


def test_histories_of_the_ranks_are_unequal() -> None:
    batch = ranks.all_users()
    stretches = [
        len(list(ranks.new_learner().model.stretches(ranks.of_users(batch, range(rank, len(ranks.EVENTS), 2)))))
        for rank in (0, 1)
    ]
    assert stretches == [3, 2]
