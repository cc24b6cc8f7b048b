"""Training does not hold more of a long history than of a short one."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rm_rec.config import FeatureSpace
from rm_rec.embedding import Embedded
from rm_rec.model import ClickModel
from rm_rec.stretch_loss import sum_of_losses
from tests.support.fakes import model_config, user_batch

SPACE = FeatureSpace(rows={"item": 100}, events=("item",), targets=("item",))


def most_held(num_events: int, bptt_segments: int) -> int:
    """Return the most bytes that were kept for a backward pass at once, beside the vectors of events and targets."""
    torch.manual_seed(0)
    model = ClickModel(model_config(bptt_segments=bptt_segments, segment_length=20), SPACE)
    batch = user_batch([num_events], [[*range(0, num_events, 100), num_events]], features=SPACE)
    held, most = 0, 0

    class Kept:
        """A saved tensor: counted from when it is saved until autograd lets it go."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal held, most
            self.tensor = tensor
            held += tensor.nbytes
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.tensor.nbytes

    def losses(leaves: Sequence[Tensor]) -> Iterator[Tensor]:
        return (output.logits.square().sum() for output in model.stretches(batch, Embedded(*leaves)))

    vectors = model.embed(batch)
    given = (vectors.events, vectors.content, vectors.targets, vectors.context)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        loss = sum_of_losses(losses, given, [*model.memory.parameters(), *model.head.parameters()])
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert model.embedding.collection.embeddings["item"].weight.grad.any()
    return most


def test_training_on_20000_events_holds_no_more_than_on_2000() -> None:
    short, long = most_held(2_000, bptt_segments=8), most_held(20_000, bptt_segments=8)
    assert 0 < long <= 1.05 * short
    # And the measure sees what is held: with one stretch for all, ten times the events hold about ten times as much.
    assert most_held(2_000, bptt_segments=1000) > 5 * short
