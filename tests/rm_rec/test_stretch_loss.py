"""A sum of losses found one after the other has a plain sum's gradients, and holds one graph at a time."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from rm_rec.histories import take
from rm_rec.stretch_loss import sum_of_losses

ROWS, DIM = 12, 3


class Given:
    """Vectors that were looked up, and weights: one that is frozen, and one that no loss reaches."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(ROWS, DIM, generator=generator))
        self.fixed = torch.randn(ROWS, DIM, generator=generator)
        self.weight = nn.Parameter(torch.randn(DIM, DIM, generator=generator))
        self.late = nn.Parameter(torch.randn(DIM, generator=generator))  # of the last loss alone
        self.frozen = nn.Parameter(torch.randn(DIM, generator=generator), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(DIM, generator=generator))
        self.vectors = [2 * self.table, self.fixed, 3 * self.table]  # the last is never looked at

    def weights(self) -> list[nn.Parameter]:
        return [self.weight, self.late, self.frozen, self.unused]

    def losses(self, vectors: Sequence[Tensor]) -> Iterator[Tensor]:
        """Three stretches that share rows, one of them twice in a stretch, and a constant between them."""
        for number, rows in enumerate(([0, 1, 1, 2], [2, 3], [5, 0, 6])):
            place = torch.tensor(rows)
            found = take(vectors[0], place) @ self.weight + vectors[1][place] * self.frozen
            yield found.square().mean() if number < 2 else (found * self.late).tanh().sum()
            if number == 0:
                yield torch.tensor(5.0)

    def gradients(self) -> dict[str, Tensor | None]:
        found = {name: value.grad for name, value in vars(self).items() if isinstance(value, nn.Parameter)}
        return {name: grad.clone() if grad is not None else None for name, grad in found.items()}


def plain_sum(given: Given) -> Tensor:
    return torch.stack(list(given.losses(given.vectors))).sum()


def our_sum(given: Given) -> Tensor:
    return sum_of_losses(given.losses, given.vectors, given.weights())


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_gradients_are_those_of_a_plain_sum(factor: float) -> None:
    ours, plain = Given(), Given()
    found, expected = our_sum(ours), plain_sum(plain)
    assert found.item() == pytest.approx(expected.item())
    assert all(grad is None for grad in ours.gradients().values()), "before the backward pass there is none"
    (factor * found).backward()
    (factor * expected).backward()
    for name, grad in plain.gradients().items():
        own = ours.gradients()[name]
        if name in ("frozen", "unused"):
            assert own is grad is None, name
        else:
            assert own is not None
            torch.testing.assert_close(own, grad, msg=name)
            assert own.any()
            assert own.layout == torch.strided


def test_gradients_add_to_those_that_are_there() -> None:
    given, twice = Given(), Given()
    our_sum(given).backward()
    for _ in range(2):
        our_sum(twice).backward()
        twice.vectors = [2 * twice.table, twice.fixed, 3 * twice.table]
    for name, grad in given.gradients().items():
        own = twice.gradients()[name]
        assert (own is None) == (grad is None)
        if own is not None and grad is not None:
            torch.testing.assert_close(own, 2 * grad)


def test_without_gradients_it_is_the_sum_and_no_more() -> None:
    given = Given()
    with torch.no_grad():
        total = our_sum(given)
        assert total.item() == pytest.approx(plain_sum(given).item())
    assert not total.requires_grad
    for weight in (given.table, given.weight, given.late, given.unused):
        weight.requires_grad_(False)
    given.vectors = [vector.detach() for vector in given.vectors]
    assert not our_sum(given).requires_grad, "where all is frozen"


def test_no_losses_are_no_loss() -> None:
    weight = nn.Parameter(torch.ones(2))
    total = sum_of_losses(lambda leaves: iter(()), [torch.ones(2, requires_grad=True)], [weight])
    assert total.item() == 0.0
    total.backward()
    assert weight.grad is None
    assert sum_of_losses(lambda leaves: iter(()), [], []).item() == 0.0


def test_a_parameter_has_one_gradient_and_a_look_up_goes_backward_once() -> None:
    given, counts = Given(), dict.fromkeys(("table", "weight", "late"), 0)

    def counted(name: str) -> Callable[[Tensor], None]:
        def count(_: Tensor) -> None:
            counts[name] += 1

        return count

    for name in counts:
        getattr(given, name).register_post_accumulate_grad_hook(counted(name))
    looked_up = given.table.clone()
    backward = []
    looked_up.register_hook(lambda grad: backward.append(grad.shape))
    given.vectors = [looked_up, given.fixed, given.fixed]
    our_sum(given).backward()
    assert counts == {"table": 1, "weight": 1, "late": 1}
    assert backward == [(ROWS, DIM)]


def test_each_graph_is_gone_before_the_next_is_made() -> None:
    alive, seen = 0, []

    class Kept:
        """A saved tensor: counted from when it is saved until autograd lets it go."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive
            self.tensor = tensor
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def losses(leaves: Sequence[Tensor]) -> Iterator[Tensor]:
        for _ in range(4):
            before = alive
            loss = (leaves[0] @ weight).exp().square().sum()
            seen.append((before, alive))
            yield loss

    weight, vectors = nn.Parameter(torch.ones(DIM, DIM)), torch.ones(ROWS, DIM, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        total = sum_of_losses(losses, [vectors], [weight])
        assert alive == 0
        assert [before for before, _ in seen] == [0] * 4
        assert min(made for _, made in seen) > 2, "the measure sees what is held"
        list(losses([vectors]))
        assert seen[-1][0] > 0, "and what is not let go"
    total.backward()
    assert weight.grad is not None
