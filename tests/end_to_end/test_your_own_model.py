"""The code of docs/your-own-model.md runs: the model before and after, a night, a request, a store."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "your-own-model.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def side(diff: str, sign: str) -> str:
    """What a diff shows with lines of one sign: "-" before, "+" after."""
    return "\n".join(line[1:] for line in diff.splitlines() if line[:1] in (" ", sign))


def events(lengths: list[int], first: int, seed: int) -> SimpleNamespace:
    random = torch.Generator().manual_seed(seed)
    time = torch.cat([torch.arange(length) * 10 + first for length in lengths])
    return SimpleNamespace(
        lengths=torch.tensor(lengths), time=time, item=torch.randint(50, (len(time),), generator=random)
    )


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """What the page supposes: eight users' events, impressions of them, tonight's events, a folder."""
    torch.manual_seed(0)
    lengths = [70, 0, 33, 200, 5, 64, 31, 1]
    num_earlier = torch.tensor([70, 12, 0, 33, 200, 40, 5, 64, 31, 1])
    user = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5, 6, 7])
    shown = SimpleNamespace(
        user=user,
        item=torch.randint(50, (10,)),
        time=num_earlier * 10 + 1,
        num_earlier=num_earlier,
        clicked=torch.tensor([0, 1] * 5).float(),
    )
    tonight = events([3, 0, 40, 0, 0, 1, 0, 0], first=5_000, seed=2)
    return {"log": events(lengths, first=0, seed=1), "shown": shown, "tonight": tonight, "folder": tmp_path}


def test_the_model_trains_before_and_after(given: dict[str, Any]) -> None:
    (diff,) = blocks("diff")
    for sign in "-+":
        names = dict(given)
        exec(side(diff, sign), names)  # the page's own code
        assert torch.isfinite(names["loss"])
    assert diff.count("\n+") <= 25, "what a memory takes fits one screen"


def test_nights_requests_and_stores_run_as_written(given: dict[str, Any]) -> None:
    (diff,) = blocks("diff")
    names = dict(given)
    for code in (side(diff, "+"), *blocks("python")):
        exec(code, names)  # the page's own code
    assert names["scores"].shape == (100,)
    assert names["memories"].num_events.tolist() == [73, 0, 73, 200, 5, 65, 31, 1]
    memories, restored = names["memories"], names["restored"]
    assert restored.num_events.tolist() == [200, 0]
    torch.testing.assert_close(restored.state["sum"][0], memories.state["sum"][3], atol=1e-2, rtol=1e-3)
    assert torch.equal(restored.window["item"][0, :40], memories.window["item"][3, :40])
